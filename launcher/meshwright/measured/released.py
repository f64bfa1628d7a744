"""Techniques that a release's recipes switched on: what a row's empty columns mean (``data/released*.csv``)."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from meshwright.measured.cells import said

__all__ = ["TECHNIQUES", "filled"]

TECHNIQUES = (
    *("recompute", "graphs", "dispatcher", "fusions", "overlap", "offload"),
    *("mtp", "capacity", "optimizer", "bf16_layers", "tp_overlap", "fsdp"),
)
"""Columns that say what was switched on."""
LAYOUT = ("tp", "pp", "vpp", "cp", "ep", "mbs")
"""Columns by which one preset of a model and GPU is told from another."""
EARLIER = ("vpp", "dropout", "loss", "gradients", "states", "attn_impl")
"""Further columns: of NeMo's releases and of Megatron-Bridge's library recipes, which differ in them.

``attn_impl``: Transformer Engine takes cuDNN's attention on Hopper (v1.6 transformer_engine/pytorch/attention.py:3551),
but FlashAttention-2 where NVTE_FUSED_ATTN is 0: in NeMo-Framework-Launcher 24.05 and 24.07 ("until we've tested it
more", launcher_scripts/conf/config.yaml:70 and :72), in dgxc-benchmarking v24.11.1 for GPT-3 (container 24.05;
nemo_megatron/launch.sh:55, 1 in v25.02's configure.sh:33), Nemotron-4 340B (24.09; nemotron/configure.sh:65) and Grok
(24.09, in v25.02 24.12; grok1/configure.sh:29).
"""

COLUMNS = (*TECHNIQUES, *EARLIER)

_WITHOUT = "w/o MTP"  # what the summary of 25.11 says beside a model's name
_DROPPING = re.compile(r"(?i)token.?drop\b")  # 25.09's, of experts that are padded to their capacity

_CONTAINER = re.compile(r"(\d\d\.\d\d(?:\.\d\d)?) container|container (\d\d\.\d\d(?:\.\d\d)?)")
_DGXC = re.compile(r"dgxc-benchmarking@v(\d\d\.\d\d)\S* (\w*)")
_CONTAINERS = {
    **{"24.11": "24.09", "25.01": "24.09", "25.02": "24.12", "25.03": "24.12"},
    **{"25.04": "25.02.01", "25.05": "25.04"},
}
"""FW_VERSION of DGX Cloud's launch.sh by its own version; nemo_megatron and grok1 kept an older one."""
_OLDER = {("24.11", "nemo_megatron"): "24.05", ("25.04", "nemo_megatron"): "24.12", ("25.04", "grok1"): "24.12"}


def filled(record: Mapping[str, str], precision: str, table: str) -> Mapping[str, str]:
    """``record`` with its empty techniques as the presets of its release, model, GPU, precision and layout have them.

    ``table``: the file of these presets.
    """
    recipe = _recipe(record, precision, table)
    empty = {column: recipe[column] for column in COLUMNS if recipe.get(column) and _unsaid(record, column)}
    return {**record, **empty, **_noted(record)}


def _unsaid(record: Mapping[str, str], column: str) -> bool:
    return said(record, column) in ("", "unknown")


def _noted(record: Mapping[str, str]) -> dict[str, str]:
    notes = said(record, "notes")
    padded = {"capacity": "1 padded"} if _DROPPING.search(notes) and _unsaid(record, "capacity") else {}
    return {**padded, **({"mtp": "0"} if _WITHOUT in notes else {})}


def _model(record: Mapping[str, str]) -> str:
    return re.sub(r"\W+", "_", said(record, "model").lower().replace(".", ""))


def _release(record: Mapping[str, str]) -> str:
    """The container's number: of its column, else the one that the source is cited with."""
    if said(record, "release"):
        return said(record, "release")
    cited = said(record, "citation")
    found = _CONTAINER.search(f"{cited} {said(record, 'notes')}")
    return next(filter(None, found.groups())) if found else _of_dgxc(cited)


def _of_dgxc(cited: str) -> str:
    found = _DGXC.search(cited)
    if not found:
        return ""
    version, folder = found.groups()
    return _OLDER.get((version, folder), _CONTAINERS.get(version, ""))


def _recipe(record: Mapping[str, str], precision: str, table: str) -> Mapping[str, str]:
    """The latest preset of its layout up to its release, else the first after it; else the latest of any layout."""
    release = _release(record)
    presets = _of(table, _model(record), said(record, "gpu").partition("-")[0].rstrip("?")) if release else ()
    ours = [r for r in presets if r["precision"] == precision] or presets
    ours = [r for r in ours if r["release"] == release or not r["capacity"]]  # tokens were dropped no longer
    before = [r for r in ours if r["release"] <= release]
    same = [r for r in ours if _same_layout(r, record)]
    first = min((r["release"] for r in same), default="")
    ran = [r for r in before if r in same] or [r for r in same if r["release"] == first] or before
    return max(ran, key=lambda r: r["release"], default={})


def _same_layout(recipe: Mapping[str, str], record: Mapping[str, str]) -> bool:
    return all(said(record, c).removesuffix(".0") in ("", recipe.get(c)) for c in LAYOUT if recipe.get(c))


@cache
def _of(table: str, model: str, gpu: str) -> tuple[Mapping[str, str], ...]:
    """Those of the model whose name is longest of all that begin this one's, however its words are parted."""
    slug = model.replace("_", "")
    ours = [r for r in _presets(table) if r["gpu"] == gpu and slug.startswith(r["model"].replace("_", ""))]
    longest = max((len(r["model"]) for r in ours), default=0)
    return tuple(r for r in ours if len(r["model"]) == longest)


@cache
def _presets(table: str) -> tuple[Mapping[str, str], ...]:
    """Of Megatron-Bridge at each tag (``released``), of its cards (``released_cards``), or NeMo (``released_nemo``)."""
    with (Path(__file__).parents[1] / "data" / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
