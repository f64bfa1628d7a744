"""One layout, or arrays of layouts, to step time and peak memory."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.cost.framework import Framework
from meshwright.cost.inputs import Scene, scene
from meshwright.cost.memory import Memory, memories
from meshwright.cost.numbers import Number, maximum
from meshwright.cost.stage_loads import Stages, stages_of
from meshwright.cost.time import Step, step
from meshwright.rules import Layout
from meshwright.spec.frozen import dataclass

__all__ = ["Estimate", "estimate", "estimate_within", "peak_memory"]


@dataclass(frozen=True)
class Estimate:
    """Numbers, or arrays as long as the layout's.

    ``step_time`` in seconds and its parts in ``parts``; ``peak_memory`` in bytes of the fullest rank, with the stages
    that differ in ``stages``, the pipeline's first and last at the ends.
    """

    step_time: Number
    peak_memory: Number
    parts: Step
    stages: tuple[Memory, ...]


def estimate(layout: Layout, framework: Framework | None = None) -> Estimate:
    """Cost of every layout in ``layout``. Its rules must hold: nothing is checked here.

    ``framework`` says what is done otherwise than the layout's backend would.
    """
    s = scene(layout, framework)
    found = stages_of(s)
    return _timed(s, found, memories(s, found.loads))


def estimate_within(layout: Layout, limit: float) -> Estimate | None:
    """Cost of one layout; None where it needs more than ``limit`` bytes, which is known after a fifth of the work."""
    s = scene(layout)
    found = stages_of(s)
    stages = memories(s, found.loads)
    return _timed(s, found, stages) if _fullest(stages) <= limit else None


def _timed(s: Scene, found: Stages, stages: tuple[Memory, ...]) -> Estimate:
    parts = step(s, found)
    return Estimate(parts.total, _fullest(stages), parts, stages)


def _fullest(stages: Iterable[Memory]) -> Number:
    return maximum(*(stage.total for stage in stages))


def peak_memory(layout: Layout) -> Number:
    """Bytes of the fullest rank of every layout: a fifth of the work of an estimate."""
    s = scene(layout)
    return _fullest(memories(s, stages_of(s).loads))
