"""How long a run is: steps, and the sequences trained in them while a ramp makes the batch grow.

A threshold of a ramp is floored to whole sequences, as core/num_microbatches_calculator.py does (megatron-core 0.19.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from meshwright.spec import Evaluation, RampStep, Training

__all__ = ["NEVER", "UNSTATED_STEPS", "decay_steps", "evaluations", "sequences", "steps", "steps_of_tokens"]

NEVER = 10**9  # steps, where Megatron asks for an interval and none is meant
UNSTATED_STEPS = 1000  # ours: a run whose length nobody stated; Megatron asks for one

Count = Any  # an int, or a NumPy array of them where a search varies the global batch


def steps(training: Training, global_batch: Count) -> Count | None:
    """Optimizer steps of the run, as stated or by its tokens; None where its length is not stated."""
    if training.steps is not None or training.tokens is None:
        return training.steps
    return steps_of_tokens(training, global_batch)


def steps_of_tokens(training: Training, global_batch: Count) -> Count:
    """The steps that ``training.tokens`` take, ramp included; the last one may train a few more."""
    assert training.tokens is not None
    left, done = -(-training.tokens // training.sequence), 0
    for count, batch in _ramp(training.ramp, training.sequence):
        here = min(count, -(-max(0, left) // batch))
        left, done = left - here * batch, done + here
    return done + -(-max(0, left) // global_batch)


def sequences(ramp: Sequence[RampStep], sequence: int, final: int, step: int) -> int:
    """Sequences trained in the first ``step`` steps of a run whose batch grows by ``ramp`` to ``final``."""
    done = 0
    for count, batch in _ramp(ramp, sequence):
        here = min(count, step)
        done, step = done + here * batch, step - here
    return done + step * final


def evaluations(evaluation: Evaluation, steps: int) -> int:
    """How often a run of ``steps`` validates; in its last step once, whatever asks for it."""
    on_the_way = steps // evaluation.interval if evaluation.interval else 0
    also_then = evaluation.at_end and steps > 0 and not (evaluation.interval and steps % evaluation.interval == 0)
    return on_the_way + int(also_then)


def decay_steps(training: Training, global_batch: Count) -> Count:
    """The step in which the learning rate has decayed: where nothing says so, the last one Megatron takes."""
    if training.schedule.decay_steps is not None:
        return training.schedule.decay_steps
    known = steps(training, global_batch)
    return UNSTATED_STEPS if known is None else known


def _ramp(ramp: Sequence[RampStep], sequence: int) -> Iterator[tuple[int, int]]:
    """(steps, batch) of each part of a ramp but the last, which has no end."""
    done = 0
    for part, after in pairwise(ramp):
        count = -(-max(0, after.from_tokens // sequence - done) // part.global_batch)
        yield count, part.global_batch
        done += count * part.global_batch
