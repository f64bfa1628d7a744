"""The splits of a model over pipeline stages that make the slowest stage as fast as possible.

Megatron expresses a split as even, with a slot for the embedding or the loss, with first and last stages of their own
(megatron/core/transformer/transformer_config.py:1994-2108), or as a layout string, which can say everything
(megatron/core/transformer/pipeline_parallel_layer_layout.py:83-141). Work is in any unit, the same for all parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, product

from meshwright.layout.pipeline import split
from meshwright.layout.plan import Chunk
from meshwright.spec import PipelineSplit
from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Model

__all__ = ["NEAR", "Balance", "Work", "best_splits", "stage_works"]

NEAR = 1.02
"""A split whose slowest stage does so much times the work of the best one's is no longer worth proposing."""
_EQUAL = 1e-6


@dataclass(frozen=True)
class Work:
    """What each decoder layer, one MTP layer and all uses of the head cost; looking up embeddings costs nothing."""

    layers: tuple[float, ...]
    mtp: float
    head: float


@dataclass(frozen=True)
class Balance:
    """A split and what it comes to: the work of the slowest stage, the mean square over stages, and of all rounds.

    ``rounds``: stages run their first chunks at the same time, then their second ones; of each the longest, added up.
    """

    division: PipelineSplit
    slowest: float
    square: float
    rounds: float


def stage_works(work: Work, stages: tuple[tuple[Chunk, ...], ...]) -> list[float]:
    """The work of every stage, all its chunks together."""
    return [sum(_chunk_work(work, chunk) for chunk in stage) for stage in stages]


def best_splits(model: Model, work: Work, pp: int, vpp: int) -> list[Balance]:
    """The best splits that ``NEAR`` admits, the best first; a layout string only where it admits no other."""
    layouts = _layouts(model, work, pp, vpp)
    fastest = min((b.slowest for b in layouts), default=sum(work.layers) + work.mtp * model.mtp + work.head)
    most = min(model.layers, int(NEAR * fastest / min(work.layers)))
    simple = [_judged(model, work, pp, vpp, division) for division in _simple(model.layers, pp, vpp, most)]
    limit = NEAR * min((b.slowest for b in (*simple, *layouts)), default=0.0)
    near = sorted((b for b in simple if b.slowest <= limit), key=lambda b: (b.slowest, b.square))
    return near or sorted((b for b in layouts if b.slowest <= limit), key=lambda b: (b.rounds, b.slowest))[:1]


def _chunk_work(work: Work, chunk: Chunk) -> float:
    layers = sum(work.layers[chunk.first : chunk.first + chunk.layers])
    return layers + chunk.mtp * work.mtp + chunk.loss * work.head


def _judged(model: Model, work: Work, pp: int, vpp: int, division: PipelineSplit) -> Balance:
    stages = split(model, pp, vpp, division)
    works = stage_works(work, stages)
    rounds = sum(max(_chunk_work(work, chunk) for chunk in chunks) for chunks in zip(*stages, strict=True))
    return Balance(division, max(works), sum(w * w for w in works) / pp, rounds)


def _simple(layers: int, pp: int, vpp: int, most: int) -> Iterator[PipelineSplit]:
    """Every split without a layout string in which no stage holds more than ``most`` layers."""
    for embedding, loss in product((False, True), repeat=2):
        slots = layers + embedding + loss
        if slots % (pp * vpp) == 0:
            yield PipelineSplit(embedding=embedding, loss=loss)
    if pp == 1:
        return
    for each in range(vpp, most + 1, vpp):
        end = layers - (pp - 1) * each
        if vpp <= end <= most and end % vpp == 0 and end != each:
            yield PipelineSplit(first=end)
            yield PipelineSplit(last=end)
    yield from _both_ends(layers, pp, vpp, most)


def _both_ends(layers: int, pp: int, vpp: int, most: int) -> Iterator[PipelineSplit]:
    for each in range(vpp, most + 1, vpp) if pp > 2 else (0,):
        rest = layers - (pp - 2) * each
        if rest % vpp == 0:
            low = max(vpp, -(-(rest - most) // vpp) * vpp)
            for first in range(low, min(most, rest - vpp) + 1, vpp):
                if each not in (first, rest - first):  # then one end is enough
                    yield PipelineSplit(first=first, last=rest - first)


def _layouts(model: Model, work: Work, pp: int, vpp: int) -> list[Balance]:
    """The layout strings with the loss beside the last layers, and in a chunk of its own behind MTP."""
    tails = (0, 1) if model.mtp and pp > 1 else (0,)
    dealt = [sizes for tail in tails if (sizes := _deal(model, work, pp, vpp, tail))]
    return [_judged(model, work, pp, vpp, PipelineSplit(layout=_spelled(chunks))) for chunks in dealt]


def _deal(model: Model, work: Work, pp: int, vpp: int, tail: int) -> list[str] | None:
    """One string of letters for each chunk; None where some would stay empty.

    Each layer goes to the stage with least to do, which is best where layers are alike; where they are not,
    layers then move over the borders of chunks for as long as that helps.
    """
    chunks, mean = pp * vpp, sum(work.layers) / model.layers
    end = chunks - 1 - tail  # the last chunk with decoder layers, and that of MTP
    sizes = [int(0 < i < end) for i in range(end + 1)]
    if sum(sizes) > model.layers:
        return None
    fixed = [0.0] * chunks
    fixed[end] += model.mtp * work.mtp
    fixed[-1] += work.head
    counts = [sum(sizes[p::pp]) for p in range(pp)]
    other = [sum(fixed[p::pp]) for p in range(pp)]
    for _ in range(model.layers - sum(sizes)):
        chunk = min(
            range(end + 1),
            key=lambda i: (round(counts[i % pp] + other[i % pp] / mean, 6), sizes[i] + fixed[i] / mean, -i),
        )
        sizes[chunk] += 1
        counts[chunk % pp] += 1
    _shift(sizes, work, other, pp)
    return _letters(sizes, model.mtp, tail)


def _letters(sizes: Sequence[int], mtp: int, tail: int) -> list[str]:
    letters = ["t" * size for size in sizes] + [""] * tail
    letters[0] = "E" + letters[0]
    letters[len(sizes) - 1] += "m" * mtp
    letters[-1] += "L"
    return letters


def _shift(sizes: list[int], work: Work, other: list[float], pp: int) -> None:
    """Move single layers between neighbouring chunks while that makes the slower of the two stages faster."""
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    loads = list(other)
    for i, size in enumerate(sizes):
        loads[i % pp] += sum(work.layers[starts[i] : starts[i] + size])
    moved = pp > 1
    while moved:
        moved = False
        for i in range(1, len(sizes)):
            for source, target, layer in ((i - 1, i, starts[i] - 1), (i, i - 1, starts[i])):
                cost = work.layers[layer] if sizes[source] > 1 else float("inf")
                if loads[target % pp] + cost < loads[source % pp] * (1 - _EQUAL):
                    sizes[source], sizes[target] = sizes[source] - 1, sizes[target] + 1
                    starts[i] -= target - source
                    loads[source % pp] -= cost
                    loads[target % pp] += cost
                    moved = True
                    break


def _spelled(chunks: list[str]) -> str:
    """Megatron's layout string, with runs of equal chunks and of equal letters counted."""
    words = [f"{_counted(chunk)}|" for chunk in chunks[:-1]]
    runs = [(word, len(list(run))) for word, run in groupby(words)]
    return "".join(f"({word})*{n}" if n > 1 else word for word, n in runs) + _counted(chunks[-1])


def _counted(letters: str) -> str:
    runs = [(letter, len(list(run))) for letter, run in groupby(letters)]
    return "".join(f"{letter}*{n}" if n > 1 else letter for letter, n in runs)
