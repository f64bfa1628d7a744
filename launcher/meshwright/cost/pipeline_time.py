"""A lower bound of a pipelined step's seconds, which takes arrays; ``schedule`` has the exact time of one schedule.

The bound is the longest of what each stage must do between the moment the first micro-batch can reach it and the moment
its last gradient has left the pipeline. For even stages it is exact; for uneven ones it is below, never above.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.spec.frozen import dataclass

__all__ = ["Placed", "Work", "bound"]


@dataclass(frozen=True)
class Work:
    """Seconds of one micro-batch on one stage, all its chunks together, with the sends the stage waits for."""

    forward: Number
    backward: Number

    @property
    def total(self) -> Number:
        """Both."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Placed:
    """The work of stage ``stage``; ``ahead``: seconds of the first chunks of all stages before it, both ways."""

    work: Work
    ahead: Number
    stage: Number


def bound(
    stages: Sequence[Placed], everything: Number, pp: Number, vpp: Number, microbatches: Number, send: Number
) -> Number:
    """At least so many seconds, whatever the other stages do.

    ``everything``: seconds of one micro-batch on all stages. ``send`` is the latency of a hand-over that nothing waits
    for but the pipeline's fill and drain.
    """
    m = microbatches
    once = everything + 2 * (pp - 1) * send  # the first micro-batch through all stages and back
    least = once
    for one in stages:
        alone = m * one.work.total + one.ahead + 2 * one.stage * send
        # 1F1B: until a stage's first gradient is there, it can have run its warm-up forwards and no more
        warm_up = minimum(pp - 1 - one.stage, m - 1) * one.work.forward
        waiting = where(vpp > 1, 0 * once, once + (m - 1) * one.work.total - warm_up)
        least = maximum(least, alone, waiting)
    return least
