"""One pipeline schedule, exact: Megatron's 1F1B and interleaved 1F1B, walked pass by pass.

The orders are those of megatron/core/pipeline_parallel/schedules.py (``get_pp_rank_microbatches``,
``get_schedule_table``): a stage warms up with forwards, alternates, and drains. When everything a stage still waits for
has moved on by the same time as some groups of micro-batches before, all groups until the drain take that time: they
are skipped, so that a step of thousands of micro-batches costs no more than one of a few dozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import field
from functools import cached_property
from typing import Literal

from meshwright.cost.pipeline_time import Work
from meshwright.spec.frozen import dataclass

__all__ = ["Fold", "Pass", "Schedule", "schedule", "simulate"]

_SAME = 1e-9  # relative: moments nearer than this part of a period are the same, up to rounding


@dataclass(frozen=True)
class Pass:
    """A chunk's forward or backward of one micro-batch; seconds since the step began."""

    kind: Literal["forward", "backward"]
    chunk: int
    microbatch: int
    start: float
    end: float


@dataclass(frozen=True)
class Fold:
    """Micro-batches left out because they repeat those before them; nothing where none are.

    ``passes``: how many each stage has before the fold.
    """

    microbatches: int = 0
    seconds: float = 0.0
    passes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """Each stage's passes in order. Behind the fold, moments and numbers of micro-batches are the whole step's."""

    stages: tuple[tuple[Pass, ...], ...]
    seconds: float
    fold: Fold


@dataclass(frozen=True)
class _Order:
    """Virtual micro-batches are numbered in the order in which every stage runs their forwards (and backwards)."""

    pp: int
    vpp: int
    microbatches: int
    group: int  # contiguous micro-batches of one chunk

    @cached_property
    def total(self) -> int:
        """Virtual micro-batches."""
        return self.microbatches * self.vpp

    @cached_property
    def period(self) -> int:
        """Virtual micro-batches of a whole group."""
        return self.group * self.vpp

    @cached_property
    def warm_up(self) -> tuple[int, ...]:
        """Of each stage, forwards before the first backward, were there enough micro-batches."""
        return tuple(map(self._warm_up, range(self.pp)))

    def _warm_up(self, stage: int) -> int:
        ahead = self.pp - stage - 1
        return ahead if self.vpp == 1 else 2 * ahead + (self.vpp - 1) * self.group

    def next(self, stage: int, begun: int, ended: int) -> tuple[bool, int]:
        """Whether a stage's next pass is a forward, and its number, after so many forwards and backwards."""
        forward = begun < self.total and begun <= self.warm_up[stage] + ended
        return forward, begun if forward else ended

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Of each virtual micro-batch, how many chunks it has behind it, and the size of its group."""
        return tuple(map(self._place, range(self.total)))

    def _place(self, k: int) -> tuple[int, int]:
        first = k // self.period * self.group
        size = min(self.group, self.microbatches - first)
        return (k - first * self.vpp) // size, size

    def chunk(self, forward: bool, behind: int) -> int:
        """The chunk of a pass with so many behind it."""
        return behind if forward else self.vpp - 1 - behind

    def microbatch(self, k: int) -> int:
        """The micro-batch that the k-th virtual one belongs to."""
        first = k // self.period * self.group
        return first + (k - first * self.vpp) % self.places[k][1]


@dataclasses.dataclass
class _Walk:
    """The moments at which each stage's forwards and backwards end, as far as they are known."""

    stages: Sequence[Sequence[Work]]
    send: float
    schedule: _Order
    forwards: list[list[float]] = field(default_factory=list)
    backwards: list[list[float]] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        pp = self.schedule.pp
        self.forwards, self.backwards, self.clock = [[] for _ in range(pp)], [[] for _ in range(pp)], [0.0] * pp

    def until(self, limits: Sequence[int]) -> None:
        """Run every stage up to so many operations; what they wait for must lie within the limits."""
        around = list(enumerate(limits))
        while not all([self._advanced(stage, limit) for stage, limit in around]):
            around.reverse()  # forwards go down the stages, backwards up

    def to_the_end(self) -> None:
        """Run every pass that is left."""
        self.until([2 * self.schedule.total] * self.schedule.pp)

    def _advanced(self, stage: int, limit: int) -> bool:
        """Run a stage's next operations as long as what they need has been done; whether all up to the limit were."""
        s, works, clock = self.schedule, self.stages[stage], self.clock[stage]
        forwards, backwards = self.forwards[stage], self.backwards[stage]
        while (begun := len(forwards)) + (ended := len(backwards)) < limit:
            forward, k = s.next(stage, begun, ended)
            behind, size = s.places[k]
            ready = self._ready(forward, stage, k, behind, size)
            if ready is None:
                return False
            work = works[s.chunk(forward, behind)]
            clock = max(clock, ready) + (work.forward if forward else work.backward)
            (forwards if forward else backwards).append(clock)
            self.clock[stage] = clock
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
        return [s.warm_up[stage] + 2 * (groups * s.period + stage) for stage in range(s.pp)]

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
    walk = _begin(stages, microbatches, send, group)
    fold = _fold(walk)
    walk.to_the_end()
    return max(walk.clock) + fold.seconds


def schedule(
    stages: Sequence[Sequence[Work]], microbatches: int, send: float, group: int | None = None, *, folded: bool = False
) -> Schedule:
    """Every pass of what ``simulate`` walks; ``folded``: without the micro-batches that repeat those before them."""
    walk = _begin(stages, microbatches, send, group)
    fold = _fold(walk) if folded else Fold()
    walk.to_the_end()
    passes = (_passes(walk, stage, fold) for stage in range(len(stages)))
    return Schedule(tuple(map(tuple, passes)), max(walk.clock) + fold.seconds, fold)


def _begin(stages: Sequence[Sequence[Work]], microbatches: int, send: float, group: int | None) -> _Walk:
    pp, vpp = len(stages), len(stages[0])
    return _Walk(stages, send, _Order(pp, vpp, microbatches, 1 if vpp == 1 else group or pp))


def _passes(walk: _Walk, stage: int, fold: Fold) -> Iterator[Pass]:
    """A stage's passes in order, those behind the fold moved to where they are in the whole step."""
    before = fold.passes[stage] if fold.microbatches else 2 * walk.schedule.total
    done = {True: 0, False: 0}
    for i in range(2 * walk.schedule.total):
        forward, k = walk.schedule.next(stage, done[True], done[False])
        done[forward] += 1
        yield _pass(walk, stage, forward, k, Fold() if i < before else fold)


def _pass(walk: _Walk, stage: int, forward: bool, k: int, moved: Fold) -> Pass:
    s = walk.schedule
    chunk = s.chunk(forward, s.places[k][0])
    work = walk.stages[stage][chunk]
    seconds, ends = (work.forward, walk.forwards) if forward else (work.backward, walk.backwards)
    end = ends[stage][k] + moved.seconds
    microbatch = s.microbatch(k) + moved.microbatches
    return Pass("forward" if forward else "backward", chunk, microbatch, end - seconds, end)


def _fold(walk: _Walk) -> Fold:
    """Walk until groups repeat, and take those that do out of the schedule."""
    s = walk.schedule
    steady = s.microbatches // s.group - -(-(s.warm_up[0] + s.pp) // s.period)  # cuts before the last groups' forwards
    states: list[list[float]] = []
    for groups in range(1, steady):
        walk.until(walk.cut(groups))
        states.append(walk.state())
        for back in range(1, min(s.pp, len(states) - 1) + 1):  # a round trip through all stages takes so many at most
            period = _shift(states[-1 - back], states[-1])
            times = (steady - groups) // back
            if period is not None and times:
                left_out = times * back * s.group
                walk.schedule = _Order(s.pp, s.vpp, s.microbatches - left_out, s.group)
                return Fold(left_out, times * period, tuple(walk.cut(groups)))
    return Fold()


def _shift(before: Sequence[float], now: Sequence[float]) -> float | None:
    """By how much every moment has moved; None where they differ."""
    shift = now[0] - before[0]
    same = all(abs(b - a - shift) <= _SAME * shift for a, b in zip(before, now, strict=True))
    return shift if same else None
