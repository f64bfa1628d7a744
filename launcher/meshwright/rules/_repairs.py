"""Proposals of what to change, the nearest value first. The resolver keeps those that really help."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from math import log

from meshwright.errors import Repair
from meshwright.rules._rule import Layout

__all__ = ["Proposals", "any_of", "change", "near_batch", "near_world", "nearest", "on_deepspeed"]

Proposals = Callable[[Layout], Iterable[Repair]]


def change(**values: object) -> Proposals:
    """Set one key or several together; ``__`` stands for the dot of a path."""
    repair = {name.replace("__", "."): value for name, value in values.items()}
    return lambda _: (repair,)


def nearest(path: str, current: Callable[[Layout], int], low: int = 1, high: int = 256) -> Proposals:
    """Other whole numbers for ``path``, by their ratio to the ``current`` one."""
    return lambda layout: ({path: value} for value in _by_ratio(current(layout), range(low, high + 1)))


def near_world(unit: Callable[[Layout], int]) -> Proposals:
    """GPU counts that ``unit`` divides, around the present one."""

    def propose(layout: Layout) -> Iterable[Repair]:
        step = unit(layout)
        counts = {max(1, layout.world // step) * step, -(-layout.world // step) * step}
        return ({"cluster.gpus": n, "cluster.nodes": None} for n in _by_ratio(layout.world, counts))

    return propose


def on_deepspeed(layout: Layout) -> Iterable[Repair]:
    """The other backend, and what it needs of the layout: ZeRO with 16 bits, no pipeline."""
    shards = {} if layout.zero else {"parallelism.zero": 1}
    whole = {} if layout.pp == 1 else {"parallelism.pp": 1, "parallelism.vpp": 1, "parallelism.zero": 3}
    yield {"backend.name": "deepspeed", **shards, **whole}


def near_batch(layout: Layout) -> Iterable[Repair]:
    """Global batches that ``micro_batch*gtp*dp`` divides, around the present one."""
    step = layout.micro_batch * layout.data
    batches = {max(1, layout.global_batch // step) * step, -(-layout.global_batch // step) * step}
    return (
        {"training.global_batch": n, "training.microbatches": None} for n in _by_ratio(layout.global_batch, batches)
    )


def any_of(*proposals: Proposals) -> Proposals:
    """All of them in turn, so that the few that are shown differ in kind."""

    def propose(layout: Layout) -> Iterable[Repair]:
        rounds = zip_longest(*(proposal(layout) for proposal in proposals))
        return (repair for repair in chain.from_iterable(rounds) if repair is not None)

    return propose


def _by_ratio(current: int, values: Iterable[int]) -> list[int]:
    here = max(1, current)
    return sorted((v for v in values if v != current and v > 0), key=lambda v: (abs(log(v / here)), v))
