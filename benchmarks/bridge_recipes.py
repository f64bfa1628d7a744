"""What each release of Megatron-Bridge switched on, from its performance presets: ``data/released.csv``.

    python benchmarks/bridge_recipes.py CLONE

CLONE is a git folder of NVIDIA-NeMo/Megatron-Bridge with its tags. A preset is a ``WorkloadBaseConfig`` in
``scripts/performance/configs/*/*workload_base_configs.py``; of several variants the last numbered one counts.
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
    r"(?P<model>.+?)(_PRETRAIN_CONFIG)?_(?P<gpu>G?B\d00|H100)_(?P<precision>BF16|FP8_CS|FP8_MX|NVFP4)"
    r"(_BASE_CONFIG)?(_V(?P<variant>\d))?"
)
_CLASS = re.compile(r"@dataclass[^\n]*\nclass WorkloadBaseConfig.*?(?=\n(?:def|class|@dataclass)|\Z)", re.DOTALL)
_PRECISIONS = {"BF16": "bf16", "FP8_CS": "fp8_tensorwise", "FP8_MX": "mxfp8", "NVFP4": "nvfp4"}
_MODELS = ("deepseek_v3", "gpt_oss", "kimi_k2", "llama3", "qwen3_30b", "qwen3_235b")
COLUMNS = (
    "model",
    "gpu",
    "precision",
    "release",
    "recompute",
    "graphs",
    "dispatcher",
    "fusions",
    "overlap",
    "offload",
    "mtp",
)


def main(clone: str) -> None:
    rows: list[dict[str, str]] = []
    for release, tag in RELEASES.items():
        rows += _of_release(release, _presets(clone, tag))
    rows.sort(key=lambda row: [row[c] for c in COLUMNS[:4]])
    with TARGET.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_changes(rows))
    print(f"{TARGET}: {len(rows)} presets of {len(RELEASES)} releases")


def _changes(rows: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Those that differ from the release before."""
    for before, row in zip([{}, *rows], rows, strict=False):
        if {**before, "release": ""} != {**row, "release": ""}:
            yield row


def _of_release(release: str, presets: dict[str, Any]) -> list[dict[str, str]]:
    best: dict[tuple[str, ...], tuple[int, Any]] = {}
    for name, preset in presets.items():
        found = _NAME.fullmatch(name)
        if found and found["model"].lower().startswith(_MODELS):
            key = found["model"].lower(), found["gpu"], _PRECISIONS[found["precision"]]
            variant = int(found["variant"] or 0)
            if key not in best or variant >= best[key][0]:
                best[key] = variant, preset
    return [
        dict(
            zip(COLUMNS[:3], key, strict=True),
            release=release,
            **_techniques(preset),
            mtp="1" if key[0] == "deepseek_v3" else "",  # recipes/deepseek/deepseek_v3.py: mtp_num_layers
        )
        for key, (_, preset) in best.items()
    ]


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
