"""What each release of Megatron-Bridge switched on, from its performance presets: ``data/released.csv``.

    python benchmarks/bridge_recipes.py CLONE

CLONE is a git folder of NVIDIA-NeMo/Megatron-Bridge with its tags. A preset is a ``WorkloadBaseConfig`` in
``scripts/performance/configs/*/*workload_base_configs.py``, and each of several variants is a row. Container 25.09
was made before there were such presets; its rows are of ``released_nemo.csv``.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import meshwright

TARGET = Path(meshwright.__file__).parent / "data" / "released.csv"
RELEASES = {
    "25.09": "v0.2.0",
    "25.11": "v0.2.2",
    "26.02": "v0.3.0",
    "26.02.01": "v0.3.1",
    "26.04": "v0.4.0",
    "26.04.01": "v0.4.1",
    "26.06": "v0.5.0",
    "26.06.01": "v0.5.1",
    "26.08": "v0.5.1",
}
"""NeMo container: the tag that it holds."""

_NAME = re.compile(
    r"(?P<model>(?!.*(?:SFT|LORA)).+?)(_PRETRAIN_CONFIG)?_(?P<gpu>G?B\d00|H100)_(?P<precision>BF16|FP8_CS|FP8_MX|NVFP4)"
    r"(_BASE_CONFIG)?(_V(?P<variant>\d))?"
)
_CLASS = re.compile(r"@dataclass[^\n]*\nclass WorkloadBaseConfig.*?(?=\n(?:def|class|@dataclass)|\Z)", re.DOTALL)
_PRECISIONS = {"BF16": "bf16", "FP8_CS": "fp8_tensorwise", "FP8_MX": "mxfp8", "NVFP4": "nvfp4"}
_MODELS = ("deepseek_v3", "gpt_oss", "kimi_k2", "llama3", "nemotron_3", "nemotronh", "qwen3_30b", "qwen3_235b")
_LAYOUT = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "vpp": "virtual_pipeline_model_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_model_parallel_size",
    "mbs": "micro_batch_size",
}
"""Columns of a layout, by the attributes of a preset."""
_OF_RECIPES = {
    # scripts/performance/configs/llama*/*.py: fsdp_double_buffer, or nccl_ub, which sets it, where use_megatron_fsdp is
    # on, be it by its option; Llama 3 8B was measured so on H100
    "llama3_8b": {"fsdp": "double_buffer"},
    "llama3_70b": {"fsdp": "double_buffer"},
    "llama31_405b": {"fsdp": "double_buffer"},
    "deepseek_v3": {"mtp": "1"},  # recipes/deepseek/deepseek_v3.py: mtp_num_layers
    "kimi_k2": {"optimizer": "muon"},  # recipes/kimi/kimi_k2.py; the summary says so, too
    "nemotron_3_nano": {"fusions": "permute"},  # recipes/nemotronh/nemotron_3_nano.py has no moe_router_fusion
    # recipes/nemotronh/nemotron_3_super.py: mtp_num_layers, mtp_use_repeated_layer; mtp_hybrid_override_pattern
    # and keep_mtp_spec_in_bf16: two layers, twice
    "nemotron_3_super": {"fusions": "permute", "mtp": "2:*E", "bf16_layers": "4"},
    # and scripts/performance/configs/nemotronh/nemotron_3_llm_pretrain.py: num_layers_at_end_in_bf16 = 14
    "nemotron_3_super NVFP4": {"bf16_layers": "18"},
}
"""What a model's recipe, or that of one precision, has whatever the preset."""
_SHARED = ("deepseek_v3", "kimi_k2", "nemotron_3")
"""Models whose provider hides shared experts beside the dispatch (moe_shared_expert_overlap) where nothing else does:

training/flex_dispatcher_backend.py and set_moe_a2a_overlap_overrides switch it off.
"""
COLUMNS = (
    "model",
    "gpu",
    "precision",
    *_LAYOUT,
    "release",
    "recompute",
    "graphs",
    "dispatcher",
    "fusions",
    "overlap",
    "offload",
    "mtp",
    "capacity",
    "optimizer",
    "bf16_layers",
    "tp_overlap",
    "fsdp",
)


def main(clone: str) -> None:
    rows: list[dict[str, str]] = []
    for release, tag in RELEASES.items():
        rows += _of_release(release, _presets(clone, tag))
    rows += (*_before_presets(), *_after_presets())
    rows = list({tuple(row[c] for c in COLUMNS[:10]): row for row in rows}.values())
    rows.sort(key=lambda row: [row[c] for c in COLUMNS[:10]])
    with TARGET.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_changes(rows))
    print(f"{TARGET}: {len(rows)} presets of {len(RELEASES)} releases")


def _before_presets() -> Iterator[dict[str, str]]:
    """Of container 25.09, those whose experts were padded to a capacity and dropped tokens (``tokendrop``).

    v0.1.0rc4 scripts/performance/run_script.py (apply_moe_token_drop) and configs/*/*_llm_pretrain.yaml (cuda_graphs).
    """
    plain = {"dispatcher": "alltoall", "fusions": "router+permute", "overlap": "none", "offload": "none"}
    qwen = {**plain, "release": "25.09", "capacity": "1 padded", "recompute": "none", "graphs": "none"}
    deepseek = {**qwen, "recompute": "selective:mla_up_proj", "overlap": "shared", "mtp": "1"}
    local = {**qwen, "graphs": "local"}
    for model, gpu, layout, techniques in (
        ("qwen3_30b_a3b", "GB200", (1, 1, 1, 1, 8, 4), local),
        ("qwen3_30b_a3b", "B200", (1, 1, 1, 1, 8, 1), local),
        ("qwen3_30b_a3b", "H100", (1, 2, 24, 1, 8, 2), qwen),
        ("qwen3_235b_a22b", "GB200", (2, 1, 1, 1, 64, 1), local),
        ("qwen3_235b_a22b", "B200", (1, 8, 2, 1, 8, 1), qwen),
        ("qwen3_235b_a22b", "H100", (2, 8, 4, 1, 32, 1), qwen),
        ("deepseek_v3", "GB200", (1, 4, 4, 1, 64, 1), deepseek),
        ("deepseek_v3", "B200", (1, 16, 1, 1, 8, 1), deepseek),
    ):
        degrees = dict(zip(_LAYOUT, map(str, layout), strict=True))
        for precision in ("fp8_tensorwise", "mxfp8"):
            yield {"model": model, "gpu": gpu, "precision": precision, **degrees, **techniques}


def _after_presets() -> Iterator[dict[str, str]]:
    """Of container 26.08, what its tag has no preset of: Nemotron 3 Ultra.

    src/megatron/bridge/perf_recipes/nemotronh at 067f987df, whose docs/performance-summary.md has these rows.
    """
    techniques = {
        **{"recompute": "selective:moe_act", "graphs": "none", "overlap": "none", "fsdp": "outer_optimizer"},
        **{"dispatcher": "hybridep", "fusions": "router+permute+experts", "mtp": "2:*E", "bf16_layers": "4"},
    }
    for gpu, tp, least in (("GB200", 2, 350_000_000), ("GB300", 1, 500_000_000)):
        degrees = dict(zip(_LAYOUT, map(str, (tp, 1, 1, 1, 64, 1)), strict=True))
        named = {"model": "nemotron_3_ultra", "gpu": gpu, "precision": "mxfp8", "release": "26.08", "tp_overlap": "off"}
        yield {**named, **degrees, **techniques, "offload": f"fused_group_mlp:{least}"}


def _changes(rows: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Those that differ from the release before."""
    for before, row in zip([{}, *rows], rows, strict=False):
        if {**before, "release": ""} != {**row, "release": ""}:
            yield row


def _of_release(release: str, presets: dict[str, Any]) -> list[dict[str, str]]:
    """Every variant; of those of one layout the last numbered."""
    found = [(m, preset) for name, preset in presets.items() if (m := _NAME.fullmatch(name))]
    ours = [(m, preset) for m, preset in found if m["model"].lower().startswith(_MODELS)]
    ours.sort(key=lambda one: int(one[0]["variant"] or 0))
    rows = [_row(m, preset) | {"release": release} for m, preset in ours]
    return list({tuple(row[c] for c in COLUMNS[:9]): row for row in rows}.values())


def _row(name: re.Match[str], preset: Any) -> dict[str, str]:
    model, techniques = name["model"].lower(), _techniques(preset)
    if model.startswith(_SHARED) and (techniques["dispatcher"], techniques["overlap"]) == ("alltoall", "none"):
        techniques["overlap"] = "shared"
    return {
        "model": model,
        "gpu": name["gpu"],
        "precision": _PRECISIONS[name["precision"]],
        **{column: str(getattr(preset, attribute) or 1) for column, attribute in _LAYOUT.items()},
        **techniques,
        **_OF_RECIPES.get(model, {}),
        **_OF_RECIPES.get(f"{model} {name['precision']}", {}),
        **({"tp_overlap": "off"} if _gathers_alone(model, name["precision"]) else {}),
    }


def _gathers_alone(model: str, precision: str) -> bool:
    """Whether tensor-parallel communication runs beside no product (``tp_comm_overlap``), at every tag.

    configs/llama*/*.py and gpt_oss: never in 4 bits; recipes/deepseek: False; those of Nemotron 3 set no comm_overlap.
    """
    return precision == "NVFP4" or model.startswith(("deepseek_v3", "nemotron_3"))


def _techniques(preset: Any) -> dict[str, str]:
    moe = preset.expert_tensor_parallel_size is not None or preset.expert_model_parallel_size > 1
    fused = getattr(preset, "cutedsl_fused_grouped_mlp", False)
    layers = preset.recompute_num_layers
    return {
        "recompute": f"full:{layers}layers" if layers else _list("selective:", preset.recompute_modules),
        "graphs": _graphs(preset),
        "dispatcher": (preset.moe_flex_dispatcher_backend or "alltoall") if moe else "",
        "fusions": ("router+permute+experts" if fused else "router+permute") if moe else "",
        "overlap": ("ep+wgrad" if preset.moe_a2a_overlap else "none") if moe else "",
        "offload": f"{preset.cpu_offloading_num_layers} layers" if preset.cpu_offloading_num_layers else "none",
    }


def _graphs(preset: Any) -> str:
    kind, scope = preset.cuda_graph_impl or "none", preset.cuda_graph_scope or []
    words = [scope] if isinstance(scope, str) else scope
    if kind == "none" or "full_iteration" in (kind, *words):
        return "none" if kind == "none" else "full_iteration"
    return _list(f"{kind}:", words)


def _list(prefix: str, words: list[str] | None) -> str:
    return prefix + "+".join(words) if words else "none"


def _presets(clone: str, tag: str) -> dict[str, Any]:
    """Every WorkloadBaseConfig of a tag, by name; their files import nothing but its class."""
    folder = "scripts/performance"
    names = _git(clone, "ls-tree", "-r", "--name-only", tag, folder).split()
    utils = next(n for n in names if n.endswith(("utils/utils.py", "utils/helpers.py")) and _holds(clone, tag, n))
    found = _CLASS.search(_show(clone, tag, utils))
    assert found
    module = types.ModuleType("utils.utils")
    sys.modules |= {"utils": types.ModuleType("utils"), "utils.utils": module, "utils.helpers": module}
    exec("from dataclasses import dataclass\nfrom typing import *\n" + found[0], module.__dict__)
    presets: dict[str, Any] = {}
    for name in names:
        if name.endswith("workload_base_configs.py"):
            held: dict[str, Any] = {}
            exec(_show(clone, tag, name), held)
            presets |= {k: v for k, v in held.items() if isinstance(v, module.WorkloadBaseConfig)}
    return presets


def _holds(clone: str, tag: str, name: str) -> bool:
    return "class WorkloadBaseConfig" in _show(clone, tag, name)


def _show(clone: str, tag: str, name: str) -> str:
    return _git(clone, "show", f"{tag}:{name}")


def _git(clone: str, *words: str) -> str:
    return subprocess.run(["git", "-C", clone, *words], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(sys.argv[1])
