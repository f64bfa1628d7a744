"""What comes next in a run: its next checkpoint, the time that is left, the losses so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.errors import ConfigError
from meshwright.jobs.damaged import reading
from meshwright.jobs.status import Status
from meshwright.jobs.written_spec import read_spec
from meshwright.spec.frozen import dataclass
from meshwright.train.metrics import read

__all__ = ["Outlook", "outlook", "seconds_left"]


@dataclass(frozen=True)
class Outlook:
    """Of one run folder. ``losses`` by step. None: not known, or not to be."""

    status: Status
    losses: tuple[float, ...]
    next_checkpoint: int | None  # its step
    seconds_left: float | None  # at the measured rate; before anything is measured, at the predicted one


def outlook(status: Status) -> Outlook:
    """Of the run that ``status`` is of, read from its folder."""
    lines: Sequence[dict[str, Any]] = reading([], "", lambda: read(status.folder / "metrics.jsonl")) or []
    losses = tuple(float(line["loss"]) for line in lines if isinstance(line.get("loss"), int | float))
    return Outlook(status, losses, _next_checkpoint(status), _seconds_left(status))


def seconds_left(runs: Sequence[Outlook]) -> float | None:
    """Of a chain, whose stages run one after another; None where one's is not known."""
    known = [one.seconds_left for one in runs if one.seconds_left is not None]
    return sum(known) if len(known) == len(runs) else None


def _next_checkpoint(status: Status) -> int | None:
    """The next multiple of the interval, or the last step; DeepSpeed and Megatron save there alike."""
    try:
        every = read_spec(status.folder).training.logging.save_interval
    except ConfigError:
        return None
    if status.state == "done" or status.steps is None:
        return None
    return status.steps if every is None else min(status.steps, (status.step // every + 1) * every)


def _seconds_left(status: Status) -> float | None:
    each = status.step_time_s or status.predicted.step_time_s
    if status.state == "done":
        return 0.0
    return None if status.steps is None or each is None else max(0, status.steps - status.step) * each
