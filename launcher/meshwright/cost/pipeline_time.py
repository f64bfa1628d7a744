"""A lower bound of a pipelined step's seconds, which takes arrays; ``schedule`` has the exact time of one schedule.

The bound is what the busiest stage must do between the moment the first micro-batch can reach it and the moment its
last gradient can leave the pipeline; for even stages it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.cost.numbers import Number, maximum, minimum, where

__all__ = ["Work", "bound"]


@dataclass(frozen=True)
class Work:
    """Seconds of one micro-batch on one stage, all its chunks together, with the sends the stage waits for."""

    forward: Number
    backward: Number

    @property
    def total(self) -> Number:
        """Both."""
        return self.forward + self.backward


def bound(first: Work, second: Work, last: Work, pp: Number, vpp: Number, microbatches: Number, send: Number) -> Number:
    """At least so many seconds; stages between the first and the last all do what the second does.

    ``send`` is the latency of a hand-over that nothing waits for but the pipeline's fill and drain.
    """
    m, between = microbatches, maximum(0, pp - 2)
    to_last = (first.total + between * second.total) / vpp + 2 * (pp - 1) * send
    to_between = (first.total + maximum(0, between - 1) * second.total) / vpp + 2 * maximum(0, pp - 2) * send
    alone = maximum(
        m * first.total,
        where(between > 0, m * second.total + to_between, 0 * to_between),
        where(pp > 1, m * last.total + to_last, 0 * to_last),
    )
    everything = first.total + between * second.total + (pp > 1) * last.total + 2 * (pp - 1) * send
    # 1F1B: the first gradient is back only after a whole round trip; until then a stage runs its warm-up forwards
    round_trip = everything + (m - 1) * first.total - minimum(pp - 1, m - 1) * first.forward
    return maximum(alone, where(vpp > 1, 0 * round_trip, round_trip))
