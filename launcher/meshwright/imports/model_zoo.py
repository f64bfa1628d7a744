"""NVIDIA's Megatron-MoE-ModelZoo: a model's YAML of flags, a table of layouts, and a script that joins them.

Its ``sbatch_benchmarking.sh`` puts the environment's values into the YAML (envsubst), those of the table where nothing
is exported (``runtime_configs/KIND/runtime.conf``), and adds flags by switches. Read at e865051.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.imports.documents import Leaves, yaml_leaves
from meshwright.imports.files import text_of
from meshwright.imports.found import Place, Source
from meshwright.imports.launchers import Program
from meshwright.imports.libraries import read_by_libraries
from meshwright.imports.megatron_arguments import Word
from meshwright.imports.megatron_yaml import flag_words, of_flag_yaml
from meshwright.imports.shell.scripts import ZOO

__all__ = ["of_model", "of_zoo", "takes"]

COLUMNS = (
    *("TP", "PP", "EP", "CP", "VPP", "MBS", "GBS", "NUM_LAYERS", "MOE_TOKEN_DISPATCHER", "MOE_GROUPED_GEMM", "NNODES"),
    *("RUN_TIME", "PRETRAIN", "SEQ_LEN", "DATASET", "PP_FIRST", "PP_LAST"),
)
"""Of a line of the table (runtime.conf, set_model_configs)."""

DISPATCHERS = {
    "alltoall": "--moe-token-dispatcher-type alltoall",
    "deepep": "--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend deepep",
    "hybridep": "--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend hybridep --moe-hybridep-num-sms 32",
}
_STATES = (
    "--use-precision-aware-optimizer --main-grads-dtype fp32 --main-params-dtype fp32 --exp-avg-dtype bf16 "
    "--exp-avg-sq-dtype bf16"
)
PRECISIONS = {
    "bf16": "--tp-comm-overlap",
    "fp8": f"--fp8-recipe blockwise --fp8-format e4m3 {_STATES} --moe-router-padding-for-fp8",
    "mxfp8": f"--fp8-recipe mxfp8 --fp8-format e4m3 {_STATES} --moe-router-padding-for-quantization",
}
GATHERED = {
    "fp8": "--fp8-param-gather",
    "mxfp8": "--fp8-param-gather --reuse-grad-buf-for-mxfp8-param-ag --overlap-grad-reduce --overlap-param-gather",
}
"""With parameters gathered in 8 bits, where the optimizer stays on the GPU."""


def takes(one: Program) -> bool:
    """Whether a script starts one of the zoo's own."""
    return one.name in ZOO


def of_zoo(one: Program, script: str, answers: Mapping[str, str]) -> Source:
    """What ``PP=8 TP=2 ... bash sbatch_benchmarking.sh FLAGS`` trains; ``answers`` win over the line.

    Raises:
        ConfigError: where the model's YAML is not beside the script.

    """
    said = {**{name: value for name, value in one.environment.items() if value}, **answers}
    model, folder = said.get("MODEL", ""), _root(Path(script))
    path = folder / "model_configs" / "benchmarking" / f"{model}.yaml" if folder and model else None
    if path is None or not path.is_file():
        message = f"model_configs/benchmarking/{model or '$MODEL'}.yaml is not above it; give the zoo's own folder"
        raise ConfigError([Problem(str(one.place), message, "import.model")])
    held = environment(path, said)
    leaves = yaml_leaves(text_of(path), str(path))
    stated = [(text.strip("'\""), place) for text, place in one.words]  # the line is read by a shell once more
    words = [*stated, *_switched(leaves, held, [text for text, _ in stated], one.place)]
    source = of_flag_yaml(leaves, held, words, _world(held))
    own = {name: text for name, text in one.environment.items() if text and read_by_libraries(name)}
    ours = {**own, **source.values.get("launch.environment", {}), **_streams(held)}
    values = {**source.values, "launch.environment": ours}
    return replace(source, values=values, kind="launch script of Megatron-MoE-ModelZoo")


def of_model(leaves: Leaves, path: Path, answers: Mapping[str, str]) -> Source | None:
    """A YAML of the zoo by itself, with the layout of the table; None where no table stands beside it."""
    if not _table(path):
        return None
    held = environment(path, answers)
    words = list(_pipeline(leaves, held, [], Place(str(path))))
    return replace(of_flag_yaml(leaves, held, words, _world(held)), kind="YAML of Megatron-MoE-ModelZoo")


def environment(path: Path, said: Mapping[str, str]) -> dict[str, str]:
    """The variables that are put into the YAML ``path``: what is said, else the table's, and what follows from them."""
    held = {**_table(path), **said}
    layers, pp, vpp = (int(held[name]) if held.get(name, "").isdigit() else 0 for name in ("NUM_LAYERS", "PP", "VPP"))
    if vpp and pp and "LAYERS_PER_VP" not in said:
        held["LAYERS_PER_VP"] = str(layers // pp // vpp) if vpp > 1 else "false"
    return held


def _table(path: Path) -> dict[str, str]:
    """The line of the model that is named as the file."""
    conf = path.parent.parent.parent / "runtime_configs" / path.parent.name / "runtime.conf"
    if not conf.is_file():
        return {}
    line = re.search(rf'^\s*\[{re.escape(path.stem)}\]="([^"]*)"', text_of(conf), re.MULTILINE)
    return dict(zip(COLUMNS, line[1].split(), strict=False)) if line else {}


def _root(script: Path) -> Path | None:
    return next((folder for folder in script.resolve().parents if (folder / "model_configs").is_dir()), None)


def _world(held: Mapping[str, str]) -> int:
    nodes = held.get("NNODES", "")
    return int(nodes) * (4 if held.get("GB200_CLUSTER") == "1" else 8) if nodes.isdigit() else 0


def _switched(leaves: Leaves, held: Mapping[str, str], extra: list[str], place: Place) -> Iterator[Word]:
    """What the script adds, in its order, so that later ones win."""
    yield from _pipeline(leaves, held, extra, place)
    offloads = held.get("OPTIMIZER_OFFLOAD") == "1"
    yield from _words("--optimizer-cpu-offload --overlap-cpu-optimizer-d2h-h2d" if offloads else "", place)
    yield from _words(DISPATCHERS.get(held.get("DISPATCHER", "deepep"), ""), place)
    precision = held.get("PR", "bf16")
    yield from _words(PRECISIONS.get(precision, ""), place)
    yield from _words("" if offloads else GATHERED.get(precision, ""), place)
    beside = held.get("A2A_OVERLAP") == "1"
    yield from _words("--delay-wgrad-compute --overlap-moe-expert-parallel-comm" if beside else "", place)


def _streams(held: Mapping[str, str]) -> dict[str, str]:
    """What the script exports by the same switch."""
    beside = held.get("A2A_OVERLAP") == "1"
    margin = {f"NVTE_{way}_LAYERNORM_SM_MARGIN": "24" if beside else "0" for way in ("FWD", "BWD")}
    return {"CUDA_DEVICE_MAX_CONNECTIONS": "32" if beside else "1", **margin}


def _pipeline(leaves: Leaves, held: Mapping[str, str], extra: list[str], place: Place) -> Iterator[Word]:
    """Chunks and uneven ends where no layout says them; positions for the length."""
    texts = [*(text for text, _ in flag_words(leaves, held)), *extra]
    laid = "--pipeline-model-parallel-layout" in texts
    chunked = {"--num-virtual-stages-per-pipeline-rank", "--num-layers-per-virtual-pipeline-stage"} & set(texts)
    if not laid and not chunked and held.get("VPP", "1") != "1":
        yield from _words(f"--num-virtual-stages-per-pipeline-rank {held['VPP']}", place)
    layers, pp = held.get("NUM_LAYERS", ""), held.get("PP", "")
    if not laid and layers.isdigit() and pp.isdigit() and int(layers) % int(pp) and "PP_LAST" in held:
        first, last = held["PP_FIRST"], held["PP_LAST"]
        ends = f"--decoder-first-pipeline-num-layers {first} --decoder-last-pipeline-num-layers {last}"
        yield from _words(ends, place)
    stated = next((one.value for path, one in leaves.items() if path.endswith("--max-position-embeddings")), 0)
    length = held.get("SEQ_LEN", "")
    if length.isdigit() and isinstance(stated, int) and int(length) > stated:
        yield from _words(f"--max-position-embeddings {length}", place)


def _words(text: str, place: Place) -> Iterator[Word]:
    return ((word, place) for word in text.split())
