"""The simulated step of one plan, moment by moment: each stage's passes, what is in them, and what follows them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from meshwright.cost.plan_cost import Pipeline, pipeline
from meshwright.cost.schedule import Pass, Schedule, schedule
from meshwright.cost.time import StageTime, Step
from meshwright.layout.plan import Plan
from meshwright.spec.frozen import dataclass

__all__ = ["PARTS", "Part", "Timeline", "timeline"]

PARTS = ("recompute", "compute", "tensor", "expert", "context", "pipeline")
"""What a pass is made of, in the order in which it is drawn: what is exposed within it is spread over its layers."""


@dataclass(frozen=True)
class Part:
    """A stretch of one kind of work on one stage; seconds since the step began."""

    kind: str  # of PARTS, or "data", "offload" or "optimizer"
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """One step: the pipeline's schedule, then the exposed data-parallel communication, then the optimizer."""

    plan: Plan
    pipeline: Pipeline
    schedule: Schedule
    step: Step

    @property
    def seconds(self) -> float:
        """Of the whole step, as in ``Cost.step_time``."""
        return float(self.step.total)

    def parts(self, stage: int, one: Pass) -> tuple[Part, ...]:
        """What ``one`` of the stage's passes is made of; together as long as the pass."""
        return tuple(_laid(one.start, self._split[stage][one.chunk][one.kind]))

    def ending(self) -> tuple[Part, ...]:
        """What every stage does behind the pipeline."""
        seconds = {kind: float(getattr(self.step, kind)) for kind in ("data", "offload", "optimizer")}
        return tuple(_laid(self.seconds - sum(seconds.values()), seconds))

    @cached_property
    def _split(self) -> list[list[dict[str, dict[str, float]]]]:
        """Seconds by stage, chunk, kind of pass and part."""
        return [
            [{kind: _seconds(time, self.pipeline.waits, kind) for kind in ("forward", "backward")} for time in chunks]
            for chunks in self.pipeline.times
        ]


def timeline(plan: Plan, step: Step, *, folded: bool = False) -> Timeline:
    """The step of ``plan``, whose cost is ``step``; ``folded``: without micro-batches that repeat those before them."""
    p, group = pipeline(plan), plan.spec.parallelism.microbatch_group
    passes = schedule(p.work, plan.batch.microbatches, p.latency, group, folded=folded)
    return Timeline(plan, p, passes, step)


def _seconds(time: StageTime, waits: float, kind: str) -> dict[str, float]:
    """The parts of a chunk's pass; what is computed again is in the backward."""
    back = kind == "backward"
    exposed = {
        name: sum(triple[1:]) if back else triple[0]
        for name, triple in (("tensor", time.tensor), ("expert", time.expert), ("context", time.context))
    }
    recompute = time.recompute if back else 0.0
    compute = (time.backward if back else time.forward) - recompute - sum(exposed.values())
    return {"recompute": recompute, "compute": compute, **exposed, "pipeline": waits / 2}


def _laid(start: float, seconds: dict[str, float]) -> Iterator[Part]:
    """One after the other; what takes no time is left out."""
    for kind, length in seconds.items():
        if length > 0:
            yield Part(kind, start, start + length)
            start += length
