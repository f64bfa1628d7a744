"""Techniques that a release's recipes switched on: what a row's empty columns mean (``data/released*.csv``)."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from meshwright.measured.cells import said

__all__ = ["TECHNIQUES", "filled"]

TECHNIQUES = ("recompute", "graphs", "dispatcher", "fusions", "overlap", "offload", "mtp")
"""Columns that say what was switched on."""
EARLIER = ("vpp", "dropout", "loss", "gradients", "capacity")
"""Further columns of NeMo's releases, whose recipes still differed in them."""

COLUMNS = (*TECHNIQUES, *EARLIER)

_WITHOUT = "w/o MTP"  # what the summary of 25.11 says beside a model's name

_CONTAINER = re.compile(r"(\d\d\.\d\d(?:\.\d\d)?) container|container (\d\d\.\d\d(?:\.\d\d)?)")


def filled(record: Mapping[str, str], precision: str) -> Mapping[str, str]:
    """``record`` with its empty techniques as the presets of its release, model, GPU and precision have them."""
    recipe = _recipe(_model(record), said(record, "gpu").partition("-")[0].rstrip("?"), precision, _release(record))
    empty = {column: recipe[column] for column in COLUMNS if recipe.get(column) and not said(record, column)}
    return {**record, **empty, **({"mtp": "0"} if _WITHOUT in said(record, "notes") else {})}


def _model(record: Mapping[str, str]) -> str:
    return re.sub(r"\W+", "_", said(record, "model").lower().replace(".", ""))


def _release(record: Mapping[str, str]) -> str:
    """The container's number: of its column, else the one that the source is cited with."""
    found = _CONTAINER.search(f"{said(record, 'citation')} {said(record, 'notes')}")
    return said(record, "release") or (next(filter(None, found.groups())) if found else "")


@cache
def _recipe(model: str, gpu: str, precision: str, release: str) -> Mapping[str, str]:
    """The latest preset up to a release; of another precision where this one has none."""
    before = [r for r in _presets() if (r["model"], r["gpu"]) == (model, gpu) and r["release"] <= release]
    ours = [r for r in before if r["precision"] == precision]
    return max(ours or before, key=lambda r: r["release"], default={})


@cache
def _presets() -> tuple[Mapping[str, str], ...]:
    """Of Megatron-Bridge at each tag, and of what NVIDIA launched before with NeMo."""
    folder = Path(__file__).parents[1] / "data"
    return tuple(row for name in ("released", "released_nemo") for row in _rows(folder / f"{name}.csv"))


def _rows(path: Path) -> tuple[Mapping[str, str], ...]:
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
