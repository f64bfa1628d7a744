"""How a backend's checkpoints carry a run from one stage to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from meshwright.errors import Problem
from meshwright.layout.plan import Plan
from meshwright.spec.frozen import dataclass

__all__ = ["Handover", "resharded"]

AXES = ("tp", "pp", "cp", "ep", "etp", "gtp", "egtp", "dp")


@dataclass(frozen=True)
class Handover:
    """What one backend does where a stage goes on from another.

    ``problems``: what of (before, after) its checkpoints cannot carry. ``saved``: the stages, with what a checkpoint
    must be saved with so that the next one's layout can read it. ``started``: a stage with what reading one needs.
    ``converts``: the layout of a sharded optimizer's checkpoint is changed by a program, before the next stage starts.
    ``state``: what becomes of the optimizer's state, in words, given the changes of the layout.
    """

    problems: Callable[[Plan, Plan], Iterator[Problem]]
    saved: Callable[[Sequence[Plan]], list[Plan]]
    started: Callable[[Plan], Plan]
    converts: bool
    state: Callable[[Plan, Sequence[str]], str]


def resharded(before: Plan, after: Plan) -> list[str]:
    """What of the layout changes, for example ``cp 1 -> 16``."""
    changes = [(axis, getattr(before.grid, axis), getattr(after.grid, axis)) for axis in AXES]
    was, now = before.spec.parallelism, after.spec.parallelism
    changes += [("vpp", was.vpp, now.vpp), ("zero", was.zero, now.zero)]
    if was.pipeline_split != now.pipeline_split:
        changes.append(("layers a stage", _layers(before), _layers(after)))
    return [f"{name} {a} -> {b}" for name, a, b in changes if a != b]


def _layers(plan: Plan) -> str:
    return str([stage.layers for stage in plan.stages]).replace(" ", "")
