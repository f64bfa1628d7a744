"""Rehearse models by name: ``python benchmarks/rehearsals.py [NAME ...]``.

Trains the miniature of each row of docs/rehearsals.json (of those named, or of all) on this machine's processes,
compares the losses with one process's, and writes what was found into the file, from which ``make docs`` makes
docs/rehearsals.md. A new row is a name with the words that say layout and backend, and with ``ranks`` where not 4
processes train it. For a name that is no model of ours but a ``model_type`` of transformers, ``model=hf`` reads the
default configuration of that class.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshwright.library import files as library
from meshwright.loading import load
from meshwright.rehearse import Rehearsal, rehearse
from meshwright.spec import Spec

TARGET = Path(__file__).parents[1] / "docs" / "rehearsals.json"


def main(names: list[str]) -> None:
    """Rehearse one after the other; a row that fails keeps why."""
    rows: dict[str, dict[str, Any]] = json.loads(TARGET.read_text("utf-8"))
    for name in names or rows:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            asked = {key: rows[name][key] for key in ("words", "ranks") if key in rows[name]}
            rows[name] = {**asked, **found(rehearsed(name, asked, Path(folder)))}
        TARGET.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", "utf-8")


def rehearsed(name: str, row: Mapping[str, Any], folder: Path, **changes: int) -> Rehearsal:
    """The rehearsal of a row, in the empty ``folder``."""
    (folder / "run").mkdir()
    return rehearse(_spec(name, row["words"], folder), folder / "run", ranks=row.get("ranks", 4), **changes)


def found(rehearsal: Rehearsal) -> dict[str, Any]:
    """What a row says of it."""
    return {
        "backend": rehearsal.backend,
        "problems": list(rehearsal.problems),
        "differences": {
            curve.layout: float(f"{difference:.1e}")
            for curve, difference in zip(rehearsal.miniatures, rehearsal.differences, strict=True)
        },
        "steps": len(rehearsal.reference.losses),
        "fallen": round(rehearsal.fallen, 2),
        "substitutions": list(rehearsal.substitutions),
    }


def _spec(name: str, words: list[str], folder: Path) -> Spec:
    model = [f"model={name}"]
    if name not in library.options("model"):
        from transformers import AutoConfig

        AutoConfig.for_model(name).to_json_file(folder / "config.json", use_diff=False)
        model = ["model=hf", f"model.path={folder}"]
    (spec,) = load([*model, *words]).stages
    return spec


if __name__ == "__main__":
    main(sys.argv[1:])
