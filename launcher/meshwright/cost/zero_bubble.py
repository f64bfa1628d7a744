"""Schedules that take weight gradients apart from the backward pass, simulated: what they would bring.

ZB-H1 and ZB-V (Qi et al. 2023, "Zero Bubble Pipeline Parallelism", and 2024, "Pipeline Parallelism with Controllable
Memory") are walked greedily: a stage runs a backward where one is ready, else a forward where it has room for its
activations, else a weight gradient. DualPipe is its authors' formula (DeepSeek-V3, Table 2). Megatron-core 0.19.2 has
none of them (core/pipeline_parallel/schedules.py): they are named, never run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import accumulate
from math import inf
from operator import itemgetter

from meshwright.spec.frozen import dataclass

__all__ = ["Split", "dual_pipe", "zb_h1", "zb_v"]

_Option = tuple[float, int, int, int, str]
_NOTHING: _Option = (inf, 0, 0, 0, "")
_EARLIEST = itemgetter(0, 1)

_WALKED = 2  # micro-batches a stage that are walked; those behind take what the busiest stage needs


@dataclass(frozen=True)
class Split:
    """Seconds of one micro-batch on one chunk: forward, gradients of inputs, gradients of weights."""

    forward: float
    inputs: float
    weights: float

    @property
    def total(self) -> float:
        """All three."""
        return self.forward + self.inputs + self.weights


def zb_h1(stages: Sequence[Split], microbatches: int, send: float = 0.0, under: float = inf) -> float:
    """Seconds with the memory of 1F1B: stage i keeps the activations of at most p - i micro-batches.

    ``under``: infinity, at once, where they cannot be less than so many seconds.
    """
    p = len(stages)
    places = [[i] for i in range(p)]
    return _long(stages, places, [p - i for i in range(p)], microbatches, send, under)


def zb_v(stages: Sequence[Split], microbatches: int, send: float = 0.0, under: float = inf) -> float:
    """Seconds where each stage has two halves in a V, with the memory of 1F1B's first stage everywhere.

    ``under``: as for ``zb_h1``.
    """
    p = len(stages)
    half = [Split(s.forward / 2, s.inputs / 2, s.weights / 2) for s in (*stages, *reversed(stages))]
    return _long(half, [[i, 2 * p - 1 - i] for i in range(p)], [2 * p] * p, microbatches, send, under)


def dual_pipe(stages: Sequence[Split], microbatches: int, hidden: float = 0.0) -> float:
    """Seconds with two directions at once, and twice the weights; ``hidden`` of a forward and a backward run at once.

    The bubble is (p/2 - 1)*(F&B + B - 3W), B being the whole backward.
    """
    slowest = max(stages, key=lambda s: s.total)
    both = slowest.total - hidden
    backward = slowest.inputs + slowest.weights
    bubble = (len(stages) / 2 - 1) * (both + backward - 3 * slowest.weights)
    return microbatches * both + max(0.0, bubble)


def _long(
    chunks: Sequence[Split], places: list[list[int]], room: list[int], microbatches: int, send: float, under: float
) -> float:
    if _least(chunks, places, microbatches, send) >= under:
        return inf
    walked = min(microbatches, _WALKED * len(places))
    busiest = max(sum(chunks[c].total for c in here) for here in places)
    return _Walk(chunks, places, room, walked, send).seconds() + (microbatches - walked) * busiest


def _least(chunks: Sequence[Split], places: list[list[int]], microbatches: int, send: float) -> float:
    """Whatever the order: a stage waits for the forwards before its first chunk, then has all its own work to do."""
    begins = [0.0, *accumulate(chunk.forward + send for chunk in chunks)]
    return max(begins[here[0]] + microbatches * sum(chunks[c].total for c in here) for here in places)


@dataclasses.dataclass
class _Walk:
    """``places``: the chunks of each stage, in the model's order; ``room``: forwards that may lack their backward."""

    chunks: Sequence[Split]
    places: list[list[int]]
    room: list[int]
    microbatches: int
    send: float
    forwards: list[list[float]] = field(default_factory=list)  # by chunk, the moments at which they end
    backwards: list[list[float]] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)  # by chunk, how many are done
    clock: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.chunks)
        self.forwards, self.backwards = [[] for _ in range(count)], [[] for _ in range(count)]
        self.weights, self.clock = [0] * count, [0.0] * len(self.places)

    def seconds(self) -> float:
        """Walk to the end, the stage that can begin first at each turn; only what a turn touches is looked at again."""
        owner = {chunk: stage for stage, here in enumerate(self.places) for chunk in here}
        next_of = [self._next(stage) for stage in range(len(self.places))]
        for _ in range(3 * len(self.chunks) * self.microbatches):
            start, _, stage, chunk, kind = min(next_of, key=_EARLIEST)
            self._run(stage, chunk, kind, start)
            touched = {stage, owner.get(chunk + 1, stage), owner.get(chunk - 1, stage)}
            for one in touched:
                next_of[one] = self._next(one)
        return max(self.clock)

    def _next(self, stage: int) -> _Option:
        return min(self._options(stage), default=_NOTHING, key=_EARLIEST)

    def _options(self, stage: int) -> Iterator[_Option]:
        """Earliest start, rank, stage, chunk, kind: backwards before forwards before weights, later chunks first."""
        for chunk in reversed(self.places[stage]):
            for rank, kind, ready in (
                (0, "backward", self._backward_ready(chunk)),
                (1, "forward", self._forward_ready(stage, chunk)),
                (2, "weights", self._weights_ready(chunk)),
            ):
                if ready is not None:
                    yield max(ready, self.clock[stage]), rank, stage, chunk, kind

    def _forward_ready(self, stage: int, chunk: int) -> float | None:
        k = len(self.forwards[chunk])
        held = sum(len(self.forwards[c]) - len(self.backwards[c]) for c in self.places[stage])
        later = chunk != self.places[stage][-1]  # one place is kept for it, or none could ever go back
        if k == self.microbatches or held + later >= self.room[stage]:
            return None
        return 0.0 if chunk == 0 else self._handed(self.forwards[chunk - 1], k)

    def _backward_ready(self, chunk: int) -> float | None:
        k = len(self.backwards[chunk])
        if k == self.microbatches or k >= len(self.forwards[chunk]):
            return None
        if chunk == len(self.chunks) - 1:
            return self.forwards[chunk][k]
        return self._handed(self.backwards[chunk + 1], k)

    def _weights_ready(self, chunk: int) -> float | None:
        k = self.weights[chunk]
        return self.backwards[chunk][k] if k < len(self.backwards[chunk]) else None

    def _handed(self, moments: list[float], k: int) -> float | None:
        return moments[k] + self.send if k < len(moments) else None

    def _run(self, stage: int, chunk: int, kind: str, start: float) -> None:
        work = self.chunks[chunk]
        if kind == "weights":
            self.clock[stage] = start + work.weights
            self.weights[chunk] += 1
            return
        self.clock[stage] = start + (work.forward if kind == "forward" else work.inputs)
        (self.forwards if kind == "forward" else self.backwards)[chunk].append(self.clock[stage])
