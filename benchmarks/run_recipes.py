"""Rehearse recipes one after the other and note in docs/proofs.json which were run: ``run_recipes.py [NAME ...]``.

Two minutes a recipe on two cores. A recipe counts as run when the miniature of its largest stage has the losses of one
process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from meshwright.documents import PROOFS
from meshwright.library import files as library

PAGE = Path(__file__).parents[1] / "docs" / PROOFS
MARKS = {"megatron": "M", "deepspeed": "D"}


def main(names: Sequence[str]) -> None:
    for name in names or library.names():
        passed = rehearse(name)
        print(name, "passed" if passed else "FAILED", flush=True)
        note(name, [MARKS[library.run(name).stages[0].backend.name]] if passed else [])


def rehearse(name: str) -> bool:
    """Whether ``meshwright rehearse`` exits with 0 for the recipe's largest stage."""
    largest = max(library.run(name).stages, key=lambda spec: spec.cluster.gpus or 0)
    stage = [f"stage={largest.stage}"] if largest.stage else []
    command = [sys.executable, "-m", "meshwright.cli", "rehearse", f"recipe={name}", "verify=false", *stage]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def note(name: str, backends: list[str]) -> None:
    page = json.loads(PAGE.read_text("utf-8"))
    page["recipes"].setdefault(name, {})["run"] = backends
    PAGE.write_text(json.dumps(page, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
