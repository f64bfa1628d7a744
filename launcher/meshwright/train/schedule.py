"""Learning rate and global batch of each step, by Megatron's formulas: both backends train on the same numbers.

A schedule's lengths are steps. Under a ramp of the batch Megatron counts samples instead, so here, too, its lengths
become the sequences trained in as many steps: warmup and decay end in the step that was said, and between them a step
counts by its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from meshwright.layout.length import sequences
from meshwright.spec import RampStep

__all__ = ["batches", "in_sequences", "learning_rate", "rates"]

Ramp = Sequence[Mapping[str, int]]


def rates(schedule: Mapping[str, Any], steps: int, sequence: int, final: int, ramp: Ramp) -> Callable[[int], float]:
    """The learning rate of each optimizer step (from 0) of a run of ``steps``."""
    if not ramp:
        return lambda step: learning_rate(step, steps, schedule)
    trained = _trained(sequence, final, ramp)
    counted = in_sequences(steps, schedule, trained)
    return lambda step: learning_rate(trained(step), trained(steps), counted)


def in_sequences(steps: int, schedule: Mapping[str, Any], trained: Callable[[int], int]) -> Mapping[str, Any]:
    """The same schedule with its lengths in sequences; ``trained`` says how many are trained in so many steps."""
    end, last = schedule["decay_steps"] or steps, schedule["wsd_decay_steps"]
    return {
        **schedule,
        "warmup_steps": trained(schedule["warmup_steps"]),
        "decay_steps": trained(end),
        "wsd_decay_steps": None if last is None else trained(end) - trained(end - last),
    }


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


def batches(steps: int, sequence: int, final: int, ramp: Ramp) -> Iterator[tuple[int, int, int]]:
    """(step, sequences trained before it, its global batch), following a ramp over trained tokens."""
    trained = _trained(sequence, final, ramp)
    return ((step, trained(step), trained(step + 1) - trained(step)) for step in range(steps))


def _trained(sequence: int, final: int, ramp: Ramp) -> Callable[[int], int]:
    """Sequences trained before a step."""
    return partial(sequences, [RampStep(**part) for part in ramp], sequence, final)


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
