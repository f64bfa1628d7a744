"""Whether a program's own schedule gives the steps of a run the rates that it should."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.layout.plan import Plan
from meshwright.verify.verdict import Check

__all__ = ["compared"]

_CLOSE = 1e-6  # of the peak rate: both reckon in doubles

Rate = Callable[[int], float]


def compared(plan: Plan, theirs: Rate, ours: Rate) -> Check:
    """``theirs`` against ``ours`` at every corner of the schedule and at steps between them."""
    peak = plan.spec.training.optimizer.lr
    asked = _steps(plan, plan.steps or 0)
    pairs = [(step, theirs(step), ours(step)) for step in asked]
    wrong = [f"step {step}: {a:.6g}, ours {b:.6g}" for step, a, b in pairs if abs(a - b) > _CLOSE * peak]
    return Check("scheduled", not wrong, "; ".join(wrong[:3]) or f"the rates of {len(pairs)} steps agree")


def _steps(plan: Plan, steps: int) -> list[int]:
    schedule = plan.spec.training.schedule
    corners = (0, schedule.warmup_steps, steps - (schedule.wsd_decay_steps or 0), steps - 1)
    near = {corner + offset for corner in corners for offset in (-1, 0, 1)}
    return sorted(step for step in near | set(range(0, steps, max(1, steps // 50))) if 0 <= step < steps)
