"""Values that could be tried on each axis. They are proposals only: the rules decide which of them are layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshwright.spec import Spec

__all__ = ["Columns", "axes", "divisors", "splits"]

Columns = dict[str, NDArray[Any]]
"""Columns of integers, all equally long."""

GIVEN_UP = 8
"""Layers that the first and the last stage together may have less, for each chunk, than two stages between them."""

_SPLIT = ("first", "last", "embedding", "loss")


def axes(spec: Spec, stated: Mapping[str, tuple[int, ...]]) -> Iterator[Columns]:
    """The axes in the order in which they are joined: what excludes most comes first."""
    world, batch, moe = spec.cluster.gpus, spec.training.global_batch, spec.model.moe is not None
    assert world is not None
    assert batch is not None
    of_world = divisors(world)
    yield _pipeline(spec, stated, of_world)
    yield _axis("tp", stated, of_world)
    yield _axis("cp", stated, of_world)
    yield _axis("micro_batch", stated, divisors(batch))
    yield _axis("ep", stated, of_world if moe else (1,))
    yield _axis("etp", stated, of_world if moe else (1,))
    yield _axis("sp", stated, (0, 1))
    yield _axis("zero", stated, (0, 1, 2, 3))


def divisors(n: int) -> tuple[int, ...]:
    """Every divisor of ``n``, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return tuple(sorted({*small, *(n // d for d in small)}))


def splits(layers: int, pp: int, vpp: int) -> Iterator[tuple[int, int, int, int]]:
    """(first, last, embedding, loss): evenly, with slots for the ends, or with ends shorter than a middle stage.

    Shorter by whole multiples of ``vpp`` (each chunk gives up as many), together by at most ``GIVEN_UP`` a chunk.
    What an even split, or a slot of the embedding or the loss already says is not said again by ``first`` and ``last``.
    """
    yield from (
        (0, 0, embedding, loss) for embedding, loss in product((0, 1), repeat=2) if pp > 1 or not embedding + loss
    )
    middle = -(-layers // (pp * vpp)) * vpp
    while pp > 1 and pp * middle - layers <= GIVEN_UP * vpp:
        given_up = pp * middle - layers
        for first_less in range(0, given_up + 1, vpp):
            first, last = middle - first_less, middle - (given_up - first_less)
            said = {first_less, given_up - first_less} <= ({0, 1} if vpp == 1 else {0})
            if min(first, last) > 0 and not said:
                yield first, last, 0, 0
        middle += vpp


def _pipeline(spec: Spec, stated: Mapping[str, tuple[int, ...]], of_world: tuple[int, ...]) -> Columns:
    """pp, vpp and the split together: which splits there are depends on the other two."""
    layers = spec.model.layers
    rows = {
        (pp, vpp, *split)
        for pp in stated.get("pp", tuple(d for d in of_world if d <= layers + 2))
        for vpp in stated.get("vpp", range(1, max(1, (layers + 2) // pp) + 1))
        for split in _chosen_splits(layers, pp, vpp, spec, stated)
    }
    columns = np.array(sorted(rows), dtype=np.int64).reshape(-1, 6)
    return {name: columns[:, i].copy() for i, name in enumerate(("pp", "vpp", *_SPLIT))}


def _chosen_splits(
    layers: int, pp: int, vpp: int, spec: Spec, stated: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[int, ...]]:
    if spec.parallelism.pipeline_split.layout is not None:
        yield 0, 0, 0, 0
    elif stated.keys() & set(_SPLIT):
        yield from product(*(stated.get(name, (0,)) for name in _SPLIT))
    else:
        yield from splits(layers, pp, vpp)


def _axis(name: str, stated: Mapping[str, tuple[int, ...]], free: tuple[int, ...]) -> Columns:
    return {name: np.array(stated.get(name, free), dtype=np.int64)}
