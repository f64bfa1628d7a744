"""Learning rate and global batch of each step, by Megatron's formulas: both backends train on the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["batches", "learning_rate"]


def learning_rate(step: int, steps: int, schedule: Mapping[str, Any]) -> float:
    """The rate of optimizer step ``step`` (from 0) of ``steps``.

    Megatron-core 0.19.2, megatron/core/optimizer_param_scheduler.py ``get_lr``: step 0 of a warmup has a rate of 0.
    """
    peak, lowest, warmup = schedule["lr"], schedule["min_lr"], schedule["warmup_steps"]
    decay = schedule["decay_steps"] or steps
    if warmup > 0 and step <= warmup:
        return float(peak * step / warmup)
    if schedule["style"] == "constant":
        return float(peak)
    if step > decay:
        return float(lowest)
    if schedule["style"] == "inverse_sqrt":
        return float(max(lowest, peak * math.sqrt(max(warmup, 1)) / math.sqrt(max(step, 1))))
    return float(lowest + _part(step, warmup, decay, schedule) * (peak - lowest))


def batches(steps: int, sequence: int, final: int, ramp: Sequence[Mapping[str, int]]) -> Iterator[tuple[int, int, int]]:
    """(step, sequences trained before it, its global batch), following a ramp over trained tokens."""
    done = 0
    for step in range(steps):
        started = [r["global_batch"] for r in ramp if r["from_tokens"] <= done * sequence]
        size = started[-1] if started else final
        yield step, done, size
        done += size


def _part(step: int, warmup: int, decay: int, schedule: Mapping[str, Any]) -> float:
    """What is left of the way from the peak to the lowest rate, 1 to 0."""
    if schedule["style"] == "wsd":
        last = schedule["wsd_decay_steps"] or 0
        start = decay - last
        return 1.0 if step <= start else _SHAPES[schedule["wsd_decay_style"]]((step - start) / last)
    return _SHAPES[schedule["style"]]((step - warmup) / max(1, decay - warmup))


_SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda way: 1 - way,
    "cosine": lambda way: 0.5 * (math.cos(math.pi * way) + 1),
    "exponential": lambda way: 2 * 0.5**way - 1,
    "minus_sqrt": lambda way: 1 - math.sqrt(way),
}
