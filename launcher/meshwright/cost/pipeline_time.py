"""Seconds of a pipelined step: a lower bound that takes arrays, and the exact simulation of one schedule.

The simulation walks Megatron's orders (megatron/core/pipeline_parallel/schedules.py): 1F1B, and interleaved 1F1B with
groups of ``pp`` micro-batches a chunk. The bound is what the busiest stage must do between the moment the first
micro-batch can reach it and the moment its last gradient can leave the pipeline; for even stages it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshwright.cost.numbers import Number, maximum, minimum, where

__all__ = ["Work", "bound", "simulate"]


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


def simulate(stages: Sequence[Sequence[Work]], microbatches: int, send: float) -> float:
    """Exact seconds: ``stages[p][v]`` is the work of chunk v of stage p for one micro-batch."""
    pp, vpp = len(stages), len(stages[0])
    orders = [_order(pp, vpp, microbatches, stage) for stage in range(pp)]
    done: dict[tuple[bool, int, int, int], float] = {}
    clock, position = [0.0] * pp, [0] * pp
    remaining = sum(map(len, orders))
    while remaining:
        for stage in range(pp):
            while position[stage] < len(orders[stage]):
                forward, chunk, batch = orders[stage][position[stage]]
                needed = _needs(forward, stage, chunk, batch, pp, vpp)
                if needed is not None and needed not in done:
                    break
                ready = 0.0 if needed is None else done[needed] + (send if needed[1] != stage else 0.0)
                work = stages[stage][chunk]
                clock[stage] = max(clock[stage], ready) + (work.forward if forward else work.backward)
                done[forward, stage, chunk, batch] = clock[stage]
                position[stage] += 1
                remaining -= 1
    return max(clock)


def _order(pp: int, vpp: int, microbatches: int, stage: int) -> list[tuple[bool, int, int]]:
    """(forward?, chunk, micro-batch) in the order in which ``stage`` runs them."""
    total = microbatches * vpp
    ahead = pp - stage - 1 if vpp == 1 else 2 * (pp - stage - 1) + (vpp - 1) * pp
    warm_up = min(ahead, total)
    forwards = [(True, *_virtual(k, pp, vpp, False)) for k in range(total)]
    backwards = [(False, *_virtual(k, pp, vpp, True)) for k in range(total)]
    steady = [op for pair in zip(forwards[warm_up:], backwards, strict=False) for op in pair]
    return forwards[:warm_up] + steady + backwards[total - warm_up :]


def _virtual(k: int, pp: int, vpp: int, backward: bool) -> tuple[int, int]:
    """Chunk and micro-batch of the k-th virtual micro-batch."""
    if vpp == 1:
        return 0, k
    chunk = k % (pp * vpp) // pp
    return vpp - 1 - chunk if backward else chunk, k // (pp * vpp) * pp + k % pp


def _needs(forward: bool, stage: int, chunk: int, batch: int, pp: int, vpp: int) -> tuple[bool, int, int, int] | None:
    """What must be done first, elsewhere in the pipeline."""
    if forward:
        if stage > 0:
            return True, stage - 1, chunk, batch
        return (True, pp - 1, chunk - 1, batch) if chunk > 0 else None
    if stage < pp - 1:
        return False, stage + 1, chunk, batch
    return (False, 0, chunk + 1, batch) if chunk < vpp - 1 else (True, stage, chunk, batch)
