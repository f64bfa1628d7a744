"""The machine-readable form of a plan, the same for ``plan``, ``compile`` and ``plan.json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from meshwright.layout.plan import Plan, Stage

__all__ = ["plan_summary", "print_json", "run_summary"]


def run_summary(name: str, plans: Sequence[Plan]) -> dict[str, Any]:
    """All stages of a run. A run of one stage carries that stage's keys at the top, too."""
    stages = [plan_summary(plan) for plan in plans]
    return {**(stages[0] if len(stages) == 1 else {}), "name": name, "stages": stages}


def plan_summary(plan: Plan) -> dict[str, Any]:
    """One stage: degrees, batch, pipeline stages with layers per chunk and parameters of one rank."""
    from meshwright.cost import cost
    from meshwright.report.cost import cost_summary

    grid, parallelism = plan.grid, plan.spec.parallelism
    return {
        "name": plan.spec.name,
        "stage": plan.spec.stage,
        "model": plan.spec.model.name,
        "cluster": plan.spec.cluster.name,
        "backend": plan.spec.backend.name,
        "world": grid.world,
        "nodes": grid.nodes,
        "degrees": {
            **{axis: getattr(grid, axis) for axis in ("tp", "pp")},
            "vpp": parallelism.vpp,
            **{axis: getattr(grid, axis) for axis in ("cp", "ep", "etp", "dp", "edp")},
        },
        "sp": parallelism.sp,
        "zero": parallelism.zero,
        "recompute": parallelism.recompute,
        "batch": {
            "global": plan.batch.global_batch,
            "micro": plan.batch.micro_batch,
            "microbatches": plan.batch.microbatches,
            "sequence": plan.batch.sequence,
            "tokens": plan.batch.tokens,
        },
        "steps": plan.steps,
        "padded_vocab": plan.padded_vocab,
        "pipeline": [_stage(i, stage) for i, stage in enumerate(plan.stages)],
        "parameters": {"total": plan.total_parameters, "active": plan.active_parameters},
        "warnings": [str(warning) for warning in plan.warnings],
        "cost": cost_summary(cost(plan)),
    }


def _stage(index: int, stage: Stage) -> dict[str, Any]:
    return {
        "stage": index,
        "layers": [chunk.layers for chunk in stage.chunks],
        "parameters_per_rank": stage.parameters,
        "expert_parameters_per_rank": stage.expert_parameters,
    }


def print_json(document: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    print()
