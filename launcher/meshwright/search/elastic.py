"""A run goes on with another number of nodes: the best layout that keeps its global batch, or comes nearest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from meshwright.search.candidate import Candidate
from meshwright.search.checkpoint_fate import Carried, carried
from meshwright.search.exact import exact
from meshwright.search.objective import Goal
from meshwright.search.proposals import divisors
from meshwright.search.rank import Ranking, budget, rank
from meshwright.search.space import space
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass

__all__ = ["Continuation", "continuations"]

TRIED_NODES = 8
"""Node counts below the healthy ones that are tried for a layout with the same batch."""

TRIED_BATCHES = 4

TRIED_BEST = 4
"""Layouts asked whether they can read the checkpoints, beside the best for each value of each key."""


@dataclass(frozen=True)
class Continuation:
    """A layout to go on with. ``idle`` healthy nodes are left over; ``batch_change`` is relative, 0 where kept.

    ``carried`` says what becomes of the weights and the optimizer state.
    """

    candidate: Candidate
    nodes: int
    idle: int
    batch_change: float
    carried: Carried


def continuations(spec: Spec, healthy: int, stated: Mapping[str, tuple[Any, ...]] | None = None) -> list[Continuation]:
    """The fastest layout with the same global batch on at most ``healthy`` nodes, and one with a near batch on all.

    The second is, of the nearest batches, the one with most tokens a second. Either may be missing. A layout that can
    read the checkpoints of ``spec`` is preferred to any other; ``stated`` as for ``space``.
    """
    assert spec.training.global_batch is not None
    batch = spec.training.global_batch
    tried = range(healthy, max(0, healthy - TRIED_NODES), -1)
    same = [c for n in tried for c in _best(spec, _on(spec, n, batch), stated)]
    near = [c for b in _near_batches(spec, healthy) for c in _best(spec, _on(spec, healthy, b), stated)]
    found = [min(same, key=lambda c: c.step_time)] if same else []
    found += [max(near, key=lambda c: c.tokens_per_gpu)] if near else []
    return [_continuation(spec, c, healthy) for one in found if (c := exact(one, Goal()))]


def _on(spec: Spec, nodes: int, batch: int) -> Spec:
    cluster = replace(spec.cluster, nodes=nodes, gpus=nodes * spec.cluster.gpus_per_node)
    training = replace(spec.training, global_batch=batch, microbatches=None)
    return replace(spec, cluster=cluster, training=training, parallelism=replace(spec.parallelism, dp=None))


def _best(before: Spec, spec: Spec, stated: Mapping[str, tuple[Any, ...]] | None) -> Iterator[Candidate]:
    """The fastest layout on which ``before`` can go on; the fastest of all where there is none."""
    ranking = rank(space(spec, stated), Goal(top=1))
    found = _in_order(ranking)
    readable = (c for c in found if not carried(before, c.spec).problems)
    yield from [*islice(readable, 1)] or found[:1]


def _in_order(ranking: Ranking) -> list[Candidate]:
    """The best, and the best for each value of each key: what can be carried often depends on one key alone."""
    fitting = [c for c in ranking.choices.values() if c.peak_memory <= budget(c.spec.cluster)]
    return sorted([*ranking.best[:TRIED_BEST], *fitting], key=lambda c: c.score)


def _near_batches(spec: Spec, nodes: int) -> list[int]:
    """Batches that some dp on all nodes divides, the nearest first, without the present one."""
    batch = spec.training.global_batch
    assert batch is not None
    ways = divisors(nodes * spec.cluster.gpus_per_node)
    multiples = {max(1, round(batch / dp)) * dp for dp in ways if dp <= 2 * batch} - {batch}
    return sorted(multiples, key=lambda b: abs(b - batch))[:TRIED_BATCHES]


def _continuation(spec: Spec, candidate: Candidate, healthy: int) -> Continuation:
    before, after = spec.training.global_batch, candidate.spec.training.global_batch
    assert before is not None
    assert after is not None
    nodes = candidate.gpus // spec.cluster.gpus_per_node
    return Continuation(candidate, nodes, healthy - nodes, after / before - 1, carried(spec, candidate.spec))
