"""Exact seconds of one pipeline schedule: Megatron's 1F1B and interleaved 1F1B, walked operation by operation.

The orders are those of megatron/core/pipeline_parallel/schedules.py (``get_pp_rank_microbatches``,
``get_schedule_table``): a stage warms up with forwards, alternates, and drains. When everything a stage still waits for
has moved on by the same time as some groups of micro-batches before, all groups until the drain take that time: they
are skipped, so that a step of thousands of micro-batches costs no more than one of a few dozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meshwright.cost.pipeline_time import Work

__all__ = ["simulate"]

_SAME = 1e-9  # relative: moments nearer than this part of a period are the same, up to rounding


@dataclass(frozen=True)
class _Schedule:
    """Virtual micro-batches are numbered in the order in which every stage runs their forwards (and backwards)."""

    pp: int
    vpp: int
    microbatches: int
    group: int  # contiguous micro-batches of one chunk

    @property
    def total(self) -> int:
        """Virtual micro-batches."""
        return self.microbatches * self.vpp

    @property
    def period(self) -> int:
        """Virtual micro-batches of a whole group."""
        return self.group * self.vpp

    def warm_up(self, stage: int) -> int:
        """Forwards before the first backward, were there enough micro-batches."""
        ahead = self.pp - stage - 1
        return ahead if self.vpp == 1 else 2 * ahead + (self.vpp - 1) * self.group

    def place(self, k: int) -> tuple[int, int]:
        """How many chunks the k-th virtual micro-batch has behind it, and the size of its group."""
        first = k // self.period * self.group
        size = min(self.group, self.microbatches - first)
        return (k - first * self.vpp) // size, size


@dataclass
class _Walk:
    """The moments at which each stage's forwards and backwards end, as far as they are known."""

    stages: Sequence[Sequence[Work]]
    send: float
    schedule: _Schedule
    forwards: list[list[float]] = field(default_factory=list)
    backwards: list[list[float]] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        pp = self.schedule.pp
        self.forwards, self.backwards, self.clock = [[] for _ in range(pp)], [[] for _ in range(pp)], [0.0] * pp

    def until(self, limits: Sequence[int]) -> None:
        """Run every stage up to so many operations; what they wait for must lie within the limits."""
        waiting = True
        while waiting:
            waiting = False
            for stage, limit in enumerate(limits):
                while len(self.forwards[stage]) + len(self.backwards[stage]) < limit:
                    if not self._next(stage):
                        waiting = True
                        break

    def _next(self, stage: int) -> bool:
        """Run the next operation of a stage, where what it needs has been done."""
        s, ended = self.schedule, len(self.backwards[stage])
        begun = len(self.forwards[stage])
        forward = begun < s.total and begun <= s.warm_up(stage) + ended
        k = begun if forward else ended
        behind, size = s.place(k)
        ready = self._ready(forward, stage, k, behind, size)
        if ready is None:
            return False
        work = self.stages[stage][behind if forward else s.vpp - 1 - behind]
        self.clock[stage] = max(self.clock[stage], ready) + (work.forward if forward else work.backward)
        (self.forwards if forward else self.backwards)[stage].append(self.clock[stage])
        return True

    def _ready(self, forward: bool, stage: int, k: int, behind: int, size: int) -> float | None:
        """When the k-th forward or backward can begin as far as other stages go; None: not known yet.

        The last stage's first backward of a micro-batch needs its own forward, which its order puts before it.
        """
        last = self.schedule.pp - 1
        begins, ends = (0, last) if forward else (last, 0)
        moments = self.forwards if forward else self.backwards
        if stage == begins and behind == 0:
            return 0.0
        source, needed = (ends, k - size) if stage == begins else (stage - 1 if forward else stage + 1, k)
        if needed >= len(moments[source]):
            return None
        return moments[source][needed] + (self.send if source != stage else 0.0)

    def cut(self, groups: int) -> list[int]:
        """Operations of each stage with ``groups`` groups back at the first: what they wait for is among them."""
        s = self.schedule
        return [s.warm_up(stage) + 2 * (groups * s.period + stage) for stage in range(s.pp)]

    def state(self) -> list[float]:
        """At a cut, the moments on which anything later depends."""
        s = self.schedule
        tail = s.group - s.pp + 1 if s.vpp > 1 else 1
        ends = [moments[-1] for moments in (*self.forwards, *self.backwards) if moments]
        return [*ends, *self.forwards[-1][-tail:], *self.backwards[0][-tail:]]


def simulate(stages: Sequence[Sequence[Work]], microbatches: int, send: float, group: int | None = None) -> float:
    """Exact seconds: ``stages[p][v]`` is the work of chunk v of stage p for one micro-batch.

    ``send``: latency of a hand-over. ``group``: contiguous micro-batches of a chunk when interleaving; None: as many as
    stages. The micro-batches that are left over groups are none, or at least as many as stages.
    """
    pp, vpp = len(stages), len(stages[0])
    schedule = _Schedule(pp, vpp, microbatches, 1 if vpp == 1 else group or pp)
    walk = _Walk(stages, send, schedule)
    skipped = _skip(walk)
    walk.until([2 * walk.schedule.total] * pp)
    return max(walk.clock) + skipped


def _skip(walk: _Walk) -> float:
    """Walk until groups repeat, take those that do out of the schedule, and return the seconds they take."""
    s = walk.schedule
    steady = s.microbatches // s.group - -(-(s.warm_up(0) + s.pp) // s.period)  # cuts before the last groups' forwards
    states: list[list[float]] = []
    for groups in range(1, steady):
        walk.until(walk.cut(groups))
        states.append(walk.state())
        for back in range(1, min(s.pp, len(states) - 1) + 1):  # a round trip through all stages takes so many at most
            period = _shift(states[-1 - back], states[-1])
            times = (steady - groups) // back
            if period is not None and times:
                left = s.microbatches - times * back * s.group
                walk.schedule = _Schedule(s.pp, s.vpp, left, s.group)
                return times * period
    return 0.0


def _shift(before: Sequence[float], now: Sequence[float]) -> float | None:
    """By how much every moment has moved; None where they differ."""
    shift = now[0] - before[0]
    same = all(abs(b - a - shift) <= _SAME * shift for a, b in zip(before, now, strict=True))
    return shift if same else None
