"""A run goes on with another number of nodes: the best layout that keeps its global batch, or comes nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from meshwright.decode import decode
from meshwright.errors import ConfigError, Problem
from meshwright.search.candidate import Candidate
from meshwright.search.exact import exact
from meshwright.search.objective import Goal
from meshwright.search.proposals import divisors
from meshwright.search.rank import rank
from meshwright.search.space import space
from meshwright.spec import Spec

__all__ = ["Continuation", "continuations", "read_folder"]

TRIED_NODES = 8
"""Node counts below the healthy ones that are tried for a layout with the same batch."""

TRIED_BATCHES = 4


@dataclass(frozen=True)
class Continuation:
    """A layout to go on with. ``idle`` healthy nodes are left over; ``batch_change`` is relative, 0 where kept."""

    candidate: Candidate
    nodes: int
    idle: int
    batch_change: float


def continuations(spec: Spec, healthy: int) -> list[Continuation]:
    """The fastest layout with the same global batch on at most ``healthy`` nodes, and one with a near batch on all.

    The second is, of the nearest batches, the one with most tokens a second. Either may be missing.
    """
    assert spec.training.global_batch is not None
    batch = spec.training.global_batch
    same = [c for n in range(healthy, max(0, healthy - TRIED_NODES), -1) for c in _best(_on(spec, n, batch))]
    near = [c for b in _near_batches(spec, healthy) for c in _best(_on(spec, healthy, b))]
    found = [min(same, key=lambda c: c.step_time)] if same else []
    found += [max(near, key=lambda c: c.tokens_per_gpu)] if near else []
    return [_continuation(spec, c, healthy) for one in found if (c := exact(one, Goal()))]


def read_folder(folder: Path) -> Spec:
    """The Spec of a compiled run.

    Raises:
        ConfigError: where ``folder`` is none of ours.

    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            [Problem("search.folder", f"{folder} is no run folder: no config.yaml in it", "search.folder")]
        )
    return decode(Spec, yaml.safe_load(path.read_text()))


def _on(spec: Spec, nodes: int, batch: int) -> Spec:
    cluster = replace(spec.cluster, nodes=nodes, gpus=nodes * spec.cluster.gpus_per_node)
    training = replace(spec.training, global_batch=batch, microbatches=None)
    return replace(spec, cluster=cluster, training=training, parallelism=replace(spec.parallelism, dp=None))


def _best(spec: Spec) -> Iterator[Candidate]:
    yield from rank(space(spec), Goal(top=1)).best[:1]


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
    return Continuation(candidate, nodes, healthy - nodes, after / before - 1)
