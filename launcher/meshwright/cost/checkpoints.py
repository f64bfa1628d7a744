"""What a run's checkpoints take on a disk, and how often failures make it worth while to save."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from meshwright.layout.plan import Plan
from meshwright.model.optimizer_state import checkpoint_gib
from meshwright.spec.frozen import dataclass

__all__ = ["GB", "Checkpoints", "advised_interval", "checkpoints"]

GIB, GB, HOUR = 2**30, 1e9, 3600.0


@dataclass(frozen=True)
class Checkpoints:
    """GiB of one, and how many lie on the disk in the end; None where the length of the run is not stated."""

    each_gib: float
    kept: int | None

    @property
    def all_gib(self) -> float | None:
        """Of all that are kept."""
        return None if self.kept is None else self.kept * self.each_gib


def checkpoints(plan: Plan) -> Checkpoints | None:
    """None where the run writes none."""
    if not plan.spec.training.logging.checkpoints:
        return None
    return Checkpoints(checkpoint_gib(plan), None if plan.steps is None else _kept(plan, plan.steps))


def _kept(plan: Plan, steps: int) -> int:
    logging = plan.spec.training.logging
    saved = list(_saved(logging.save_interval, logging.save_at_end, steps))
    if logging.keep_last is None:
        return len(saved)
    older = saved[: -logging.keep_last]
    multiples = sum(step % logging.keep_every == 0 for step in older) if logging.keep_every else 0
    return len(saved) - len(older) + multiples


def _saved(interval: int | None, at_end: bool, steps: int) -> Iterator[int]:
    yield from range(interval, steps + 1, interval) if interval else ()
    if at_end and (not interval or steps % interval):
        yield steps


def advised_interval(plan: Plan, step_time: float) -> int | None:
    """Steps between checkpoints that lose the least time, by Young's formula as Daly refined it.

    None where the cluster states neither ``node_mtbf_hours`` nor ``storage_gb_s``. With delta the seconds of one save
    and M those between failures of the run's nodes: sqrt(2 delta M) - delta, for delta below M/2, else M. J. T. Daly, A
    higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22 (2006), equation 20.
    """
    mtbf, rate = plan.spec.cluster.node_mtbf_hours, plan.spec.cluster.storage_gb_s
    if mtbf is None or rate is None:
        return None
    between, delta = mtbf * HOUR / plan.grid.nodes, checkpoint_gib(plan) * GIB / (rate * GB)
    seconds = sqrt(2 * delta * between) - delta if delta < between / 2 else between
    return max(1, round(seconds / step_time))
