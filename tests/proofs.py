"""docs/proofs.json: which proofs each recipe has passed, noted by the tests and programs that make them."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from meshwright.documents import PROOFS

__all__ = ["PAGE", "note"]

PAGE = Path(__file__).parents[1] / "docs" / PROOFS


def note(recipe: str, step: str, marks: list[str]) -> None:
    """``recipe`` has passed ``step`` with the backends or systems ``marks``; several processes may note at once."""
    with PAGE.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        page = json.load(file)
        page["recipes"].setdefault(recipe, {})[step] = marks
        file.seek(0)
        file.truncate()
        file.write(json.dumps(page, indent=1) + "\n")
