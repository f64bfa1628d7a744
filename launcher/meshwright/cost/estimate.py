"""One layout, or arrays of layouts, to step time and peak memory."""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.cost.framework import Framework
from meshwright.cost.inputs import loads, scene
from meshwright.cost.memory import Memory, memory
from meshwright.cost.numbers import Number, maximum
from meshwright.cost.time import Step, step
from meshwright.rules import Layout

__all__ = ["Estimate", "estimate", "peak_memory"]


@dataclass(frozen=True)
class Estimate:
    """Numbers, or arrays as long as the layout's.

    ``step_time`` in seconds and its parts in ``parts``; ``peak_memory`` in bytes of the fullest rank, with the
    first, second and last stage in ``stages``.
    """

    step_time: Number
    peak_memory: Number
    parts: Step
    stages: tuple[Memory, Memory, Memory]


def estimate(layout: Layout, framework: Framework | None = None) -> Estimate:
    """Cost of every layout in ``layout``. Its rules must hold: nothing is checked here.

    ``framework`` says what is done otherwise than the layout's backend would.
    """
    s = scene(layout, framework)
    first, second, last = loads(s)
    parts = step(s, first, second, last)
    stages = memory(s, first), memory(s, second), memory(s, last)
    return Estimate(parts.total, maximum(*(stage.total for stage in stages)), parts, stages)


def peak_memory(layout: Layout) -> Number:
    """Bytes of the fullest rank of every layout: a fifth of the work of an estimate."""
    s = scene(layout)
    return maximum(*(memory(s, load).total for load in loads(s)))
