"""Megatron's checkpoints between stages: torch_dist reshards itself, a sharded optimizer where it was saved for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from meshwright.emit.megatron import checkpoint_format, shards
from meshwright.errors import Problem
from meshwright.jobs.handover import Handover, resharded
from meshwright.layout.plan import Plan
from meshwright.resolver import resolve

__all__ = ["HANDOVER"]

NEW_SCHEDULE = "--override-opt-param-scheduler"


def _problems(before: Plan, after: Plan) -> Iterator[Problem]:
    formats = checkpoint_format(before), checkpoint_format(after)
    if formats[0] != formats[1]:
        message = f"stage {before.spec.stage} saves {formats[0]}, stage {after.spec.stage} reads {formats[1]}"
        yield Problem("backend.megatron.checkpoint_format", message, "transition")
    if formats[0] == "torch" and resharded(before, after):
        message = "the format torch is bound to its layout; choose torch_dist"
        yield Problem("backend.megatron.checkpoint_format", message, "transition")
    if shards(before) != shards(after):
        message = "the state of a sharded optimizer and of one that is not do not fit each other"
        yield Problem("parallelism.zero", message, "transition")


def _saved(plans: Sequence[Plan]) -> list[Plan]:
    """Where a layout changes, a sharded optimizer is saved in a form that fits every layout."""
    changes = any(resharded(a, b) for a, b in pairwise(plans))
    return [_with(plan, checkpoint_reshardable=True) if changes and _in_buckets(plan) else plan for plan in plans]


def _in_buckets(plan: Plan) -> bool:
    return shards(plan) and checkpoint_format(plan) == "torch_dist"


def _started(plan: Plan) -> Plan:
    extra = plan.spec.backend.megatron.extra
    return plan if NEW_SCHEDULE in extra else _with(plan, extra=(*extra, NEW_SCHEDULE))


def _with(plan: Plan, **options: Any) -> Plan:
    backend = replace(plan.spec.backend, megatron=replace(plan.spec.backend.megatron, **options))
    return resolve(replace(plan.spec, backend=backend))


def _state(plan: Plan, changes: Sequence[str]) -> str:
    return f"resharded by Megatron ({checkpoint_format(plan)})" if changes else "loaded as saved"


HANDOVER = Handover(_problems, _saved, _started, converts=False, state=_state)
