"""The measured rows that ship with the package, predicted once for all tests that look at them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import meshwright
from meshwright.measured.rows import read
from meshwright.measured.validate import Judged, judge

__all__ = ["ROWS", "judged", "judged_and_skipped", "of"]

ROWS = Path(meshwright.__file__).parent / "data" / "measured.csv"


@cache
def judged_and_skipped() -> tuple[list[Judged], list[dict[str, str]]]:
    """What ``judge`` says of them: seconds."""
    return judge(read(ROWS))


def judged() -> tuple[Judged, ...]:
    """Those that can be costed."""
    return tuple(judged_and_skipped()[0])


def of(source: str) -> list[Judged]:
    """Those that one source published."""
    return [j for j in judged() if j.row.source == source]
