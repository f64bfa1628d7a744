"""How long a run takes and what it uses: days, GPU hours, money, jobs under a time limit."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from meshwright.cost.plan_cost import Cost
from meshwright.layout.length import evaluations
from meshwright.layout.plan import Plan
from meshwright.rules.launch import seconds as seconds_of
from meshwright.spec.frozen import dataclass

__all__ = ["Duration", "duration", "together"]

DAY, HOUR = 86_400.0, 3_600.0  # seconds


@dataclass(frozen=True)
class Duration:
    """Of the whole run at its predicted rate with its validation, restarts and saving not counted."""

    tokens: int
    seconds: float
    validation_seconds: float  # of these
    gpu_hours: float
    price: float | None  # in the currency of cluster.price_per_gpu_hour; None: no price is stated
    slices: int | None  # jobs that launch.slurm.time cuts it into; None: no limit is stated

    @property
    def days(self) -> float:
        """Days of 24 hours."""
        return self.seconds / DAY


def duration(plan: Plan, cost: Cost) -> Duration | None:
    """Of one stage; None where its length is not stated. While a ramp lasts, tokens pass at the full batch's rate."""
    if plan.steps is None:
        return None
    validation = _validation(plan, cost)
    seconds = plan.tokens / cost.tokens_per_second + validation
    gpu_hours = seconds * plan.grid.world / HOUR
    price, slurm = plan.spec.cluster.price_per_gpu_hour, plan.spec.launch.slurm
    return Duration(
        tokens=plan.tokens,
        seconds=seconds,
        validation_seconds=validation,
        gpu_hours=gpu_hours,
        price=None if price is None else gpu_hours * price,
        slices=_slices(seconds, slurm.time, slurm.signal_seconds) if plan.spec.launch.kind == "slurm" else None,
    )


def _validation(plan: Plan, cost: Cost) -> float:
    """Forward alone: a third of the matrix products and of the bubble, half of what layers and stages send.

    Inferred from the backward's two products for each of the forward's, and its collectives one for one.
    """
    evaluation, step = plan.spec.training.evaluation, cost.step
    sent = float(step.tensor + step.expert + step.context + step.pipeline)
    forward = float(step.compute + step.bubble) / 3 + sent / 2
    return evaluations(evaluation, plan.steps or 0) * evaluation.steps * forward


def together(stages: Sequence[Duration | None]) -> Duration | None:
    """Of a chain of stages; None where one's length is not stated."""
    known = [stage for stage in stages if stage is not None]
    if not known or len(known) < len(stages):
        return None
    prices = [stage.price for stage in known if stage.price is not None]
    slices = [stage.slices for stage in known if stage.slices is not None]
    return Duration(
        tokens=sum(stage.tokens for stage in known),
        seconds=sum(stage.seconds for stage in known),
        validation_seconds=sum(stage.validation_seconds for stage in known),
        gpu_hours=sum(stage.gpu_hours for stage in known),
        price=sum(prices) if len(prices) == len(known) else None,
        slices=sum(slices) if len(slices) == len(known) else None,
    )


def _slices(seconds: float, limit: str | None, signal_seconds: int) -> int | None:
    """Jobs of at most ``limit``, each of which stops ``signal_seconds`` before it to save."""
    usable = 0 if limit is None else seconds_of(limit) - signal_seconds
    return ceil(seconds / usable) if usable > 0 else None
