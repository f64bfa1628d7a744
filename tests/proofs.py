"""docs/proofs.json: which proofs each recipe has passed, noted by the tests and programs that make them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshwright.documents import PROOFS

__all__ = ["MARKS", "PAGE", "note", "noted"]

PAGE = Path(__file__).parents[1] / "docs" / PROOFS
MARKS = {"megatron": "M", "deepspeed": "D"}


def noted(recipe: str) -> dict[str, Any]:
    """What ``recipe`` has passed, by step."""
    found: dict[str, Any] = json.loads(PAGE.read_text("utf-8"))["recipes"].get(recipe, {})
    return found


def note(recipe: str, step: str, marks: Sequence[str] | Mapping[str, Any]) -> None:
    """``recipe`` has passed ``step`` with the backends or systems ``marks``; several processes may note at once."""
    with PAGE.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        page = json.load(file)
        page["recipes"].setdefault(recipe, {})[step] = marks
        file.seek(0)
        file.truncate()
        file.write(json.dumps(page, indent=1) + "\n")
