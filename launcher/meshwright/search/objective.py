"""What a search looks for: a score for each layout, the lower the better."""

from __future__ import annotations

from typing import Any, Literal

from meshwright.cost.memory import GIB
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass

__all__ = ["DAY", "LATE", "OBJECTIVES", "Goal", "Objective", "run_days", "run_steps", "score"]

Objective = Literal["time", "throughput", "gpu_hours", "memory", "gpus"]

OBJECTIVES: dict[Objective, str] = {
    "time": "the shortest step",
    "throughput": "most tokens per second and GPU",
    "gpu_hours": "fewest GPU hours for the run",
    "memory": "most memory to spare",
    "gpus": "fewest GPUs that finish the run in search.days",
}

DAY = 86_400.0  # seconds

LATE = 1e9
"""The score from which on a layout does not do what was asked."""


@dataclass(frozen=True)
class Goal:
    """What is looked for, how many of the best are kept, and the days that objective gpus allows."""

    objective: Objective = "time"
    top: int = 5
    days: float | None = None


def score(objective: Objective, spec: Spec, step_time: Any, peak_memory: Any, days: float | None) -> Any:
    """The score of layouts by their step time (s) and peak memory (bytes); above LATE where the run takes too long.

    Among layouts on equally many GPUs, the shorter step wins.
    """
    gpus = spec.cluster.gpus
    assert gpus is not None
    if objective == "memory":
        return peak_memory / GIB
    if objective == "gpus":
        steps = run_steps(spec)
        assert days is not None
        share = step_time * steps / (days * DAY)
        return gpus + share / 2 + (share > 1) * LATE
    return step_time if objective == "time" else step_time * gpus


def run_days(spec: Spec, step_time: float) -> float:
    """Days of the whole run at ``step_time`` seconds a step."""
    return step_time * run_steps(spec) / DAY


def run_steps(spec: Spec) -> int:
    """Optimizer steps of the whole run; 1 where its length is not stated."""
    from meshwright.layout.plan import Batch
    from meshwright.resolver import steps

    t = spec.training
    assert t.global_batch is not None
    return steps(t, Batch(t.micro_batch, t.global_batch, 1, t.sequence)) or 1
