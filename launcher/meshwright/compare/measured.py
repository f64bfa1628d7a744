"""What two run folders' runs measured: their rates, and their losses step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshwright.compare.numbers import Number, unequal
from meshwright.jobs.damaged import reading
from meshwright.jobs.status import status
from meshwright.train.metrics import read

__all__ = ["measured"]

_NAMES = ("state", "step", "loss", "grad_norm", "step_time_s", "tokens_per_s", "mfu", "starts", "failures")


def measured(a: Path, b: Path) -> tuple[Number, ...]:
    """What ``status`` says of both, where it differs, then the loss of the last step both took, and the first unequal.

    Empty where neither folder holds a line of metrics.
    """
    losses = _losses(a), _losses(b)
    if not any(losses):
        return ()
    said = ({name: getattr(status(folder), name) for name in _NAMES} for folder in (a, b))
    return (*unequal(*said), *_steps(*losses))


def _losses(folder: Path) -> dict[int, float]:
    lines: list[dict[str, Any]] = reading([], "", lambda: read(folder / "metrics.jsonl")) or []
    return {line["step"]: line["loss"] for line in lines if isinstance(line.get("loss"), int | float)}


def _steps(a: dict[int, float], b: dict[int, float]) -> tuple[Number, ...]:
    common = sorted(a.keys() & b.keys())
    apart = [step for step in common if a[step] != b[step]]
    if not apart:
        return ()
    widest = max(apart, key=lambda step: abs(a[step] - b[step]))
    shown = {"first unequal": apart[0], "furthest apart": widest, "last common": common[-1]}
    return tuple(Number(f"loss of step {step:,} ({word})", a[step], b[step]) for word, step in shown.items())
