"""The machine-readable form of plans and their cost, the same for ``plan``, ``compile`` and ``plan.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from meshwright.cost.checkpoints import advised_interval, checkpoints
from meshwright.cost.duration import Duration, duration, together
from meshwright.cost.flows import Flow
from meshwright.cost.memory import Memory
from meshwright.cost.plan_cost import Cost, cost
from meshwright.layout.plan import Plan, Stage

__all__ = ["cost_summary", "plan_summary", "run_summary"]


def run_summary(name: str, plans: Sequence[Plan]) -> dict[str, Any]:
    """All stages of a run. A run of one stage carries that stage's keys at the top, too."""
    costs = [cost(plan) for plan in plans]
    stages = [plan_summary(plan, of_plan) for plan, of_plan in zip(plans, costs, strict=True)]
    whole = together([duration(*pair) for pair in zip(plans, costs, strict=True)]) if len(plans) > 1 else None
    total = {"duration": _duration(whole)} if whole else {}
    return {**(stages[0] if len(stages) == 1 else {}), **total, "name": name, "stages": stages}


def plan_summary(plan: Plan, costs: Cost | None = None) -> dict[str, Any]:
    """One stage: degrees, batch, pipeline stages with layers per chunk and parameters of one rank."""
    grid, parallelism = plan.grid, plan.spec.parallelism
    costs = costs or cost(plan)
    return {
        "name": plan.spec.name,
        **({"variant": plan.spec.variant} if plan.spec.variant else {}),
        "stage": plan.spec.stage,
        "model": plan.spec.model.name,
        "cluster": plan.spec.cluster.name,
        "backend": plan.spec.backend.name,
        "world": grid.world,
        "nodes": grid.nodes,
        "degrees": {
            **{axis: getattr(grid, axis) for axis in ("tp", "pp")},
            "vpp": parallelism.vpp,
            **{axis: getattr(grid, axis) for axis in ("cp", "ep", "etp", "gtp", "egtp", "dp", "edp")},
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
        "cost": {
            **cost_summary(costs),
            "duration": _duration(duration(plan, costs)),
            "checkpoints": _checkpoints(plan, costs),
        },
    }


def _checkpoints(plan: Plan, costs: Cost) -> dict[str, Any] | None:
    """GiB of one and of all that are kept; None where none is written."""
    found = checkpoints(plan)
    advised = {"advised_interval": advised_interval(plan, costs.step_time)}
    return None if found is None else {**asdict(found), "all_gib": found.all_gib, **advised}


def _duration(length: Duration | None) -> dict[str, Any] | None:
    """Days, GPU hours, tokens; None where the length of the run is not stated."""
    return None if length is None else {**asdict(length), "days": length.days}


def _stage(index: int, stage: Stage) -> dict[str, Any]:
    return {
        "stage": index,
        "layers": [chunk.layers for chunk in stage.chunks],
        "parameters_per_rank": stage.parameters,
        "expert_parameters_per_rank": stage.expert_parameters,
    }


def cost_summary(cost: Cost) -> dict[str, Any]:
    """The machine-readable form: seconds, bytes, FLOP/s; parts add up to their totals."""
    return {
        "step_time_s": cost.step_time,
        "step_time_80_s": list(cost.interval),
        "step_parts_s": {f.name: float(getattr(cost.step, f.name)) for f in fields(cost.step)},
        "tokens_per_second": cost.tokens_per_second,
        "tflops_per_gpu": cost.model_flops / 1e12,
        "mfu": cost.mfu,
        "mfu_by_convention": dict(cost.conventions),
        "hfu": cost.hfu,
        "peak_memory_bytes": cost.peak_memory,
        "peak_memory_stage": cost.fullest,
        "peak_memory_80_bytes": list(cost.memory_interval),
        "memory_limit_bytes": cost.memory_limit,
        "fits": cost.fits,
        "host_bytes_of_node": {"memory": cost.host.memory, **asdict(cost.host)},
        "fit_probability": cost.fit_probability,
        "memory_bytes": [{f.name: float(getattr(stage, f.name)) for f in fields(Memory)} for stage in cost.stages],
        "traffic_bytes": {f.name: float(getattr(cost.traffic, f.name).size) for f in fields(cost.traffic)},
        "traffic_outside_bytes": {
            f.name: float(outside)
            for f in fields(cost.traffic)
            if (outside := getattr(cost.traffic, f.name).outside) is not None
        },
        "traffic_links": {f.name: getattr(cost.traffic, f.name).link for f in fields(cost.traffic)},
        "messages": {f.name: _messages(getattr(cost.traffic, f.name)) for f in fields(cost.traffic)},
        "notes": list(cost.notes),
        "advice": [{"path": one.path, "message": one.message} for one in cost.advice],
    }


def _messages(flow: Flow) -> dict[str, Any]:
    """One rank's messages of a kind in a step: how many, bytes of one on the average, among how many ranks."""
    count = float(flow.messages)
    each = float(flow.size) / count if count else 0.0
    return {
        "collective": flow.collective,
        "count": count,
        "bytes_each": each,
        "group": int(flow.group),
        "link": flow.link,
    }
