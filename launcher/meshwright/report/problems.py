"""What is wrong, for machines; people read the problems' own lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshwright.errors import Problem, assignments

__all__ = ["document"]


def document(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Each problem with its path, its rule, and its repairs as words for the command line."""
    return [
        {
            "path": problem.path,
            "message": problem.message,
            "rule": problem.rule,
            "repairs": [assignments(repair) for repair in problem.repairs],
        }
        for problem in problems
    ]
