"""DeepSpeed's checkpoints between stages: one whose layout changes is converted to a universal one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.errors import Problem
from meshwright.jobs.handover import Handover
from meshwright.layout.plan import Plan

__all__ = ["HANDOVER"]


def _problems(before: Plan, after: Plan) -> Iterator[Problem]:
    for axis in ("tp", "ep"):
        was, now = getattr(before.grid, axis), getattr(after.grid, axis)
        if was != now:
            message = f"{was} in stage {before.spec.stage}, {now} in stage {after.spec.stage}: not tried with ours"
            yield Problem(f"parallelism.{axis}", f"{message} universal checkpoints; keep it", "transition")
    zero = before.spec.parallelism.zero, after.spec.parallelism.zero
    if (zero[0] == 0) != (zero[1] == 0):
        message = f"{zero[0]} in stage {before.spec.stage}, {zero[1]} in stage {after.spec.stage}: "
        yield Problem("parallelism.zero", message + "only ZeRO's states become universal checkpoints", "transition")


def _started(plan: Plan) -> Plan:
    return plan  # its engine takes up a scheduler's state only where it is asked to


def _state(plan: Plan, _: Sequence[str]) -> str:
    universal = plan.spec.after is not None and plan.spec.after.universal
    return "converted to a universal checkpoint" if universal else "loaded as saved"


HANDOVER = Handover(_problems, list, _started, converts=True, state=_state)
