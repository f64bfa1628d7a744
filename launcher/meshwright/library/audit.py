"""The arithmetic of a recipe against what its authors claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshwright.compose import Run
from meshwright.errors import ConfigError
from meshwright.layout.plan import Plan
from meshwright.library.finding import Finding, compare, possible
from meshwright.library.published_flops import (
    causal_flops_per_token,
    eight_bit_speedup,
    hardware_flops_per_token,
    mfu,
    model_flops_per_token,
    peak_flops,
)
from meshwright.library.recipe import Claim, Recipe
from meshwright.resolver import resolve
from meshwright.spec import Spec

__all__ = ["audit"]

CAUSAL = 0.03  # they say which way they count: norms and routers, with or without, make the rest
RATE = 0.12  # ways of counting FLOPs differ: causal attention halved or not, embedding and head with or without
ACTIVE = 0.05  # active parameters are counted with or without embedding and head
HOURS = 0.35  # hours hold restarts, evaluation and slow phases that the best MFU does not
TOKENS = 0.02  # 4M tokens a step may be 4,194,304

Said = Mapping[str, float]


def audit(recipe: Recipe, run: Run) -> tuple[Finding, ...]:
    """Every check that the recipe's claims and the stages of one variant allow: the run itself first, then they."""
    said = {record.stage or record.variant: _said(record.claims) for record in recipe.records}
    judged = [_resolved(spec) for spec in run.stages]
    plans = [plan for plan in judged if isinstance(plan, Plan)]
    findings = list(_run(plans, said[None], _best_mfu(said), len(plans) == len(judged))) if plans else []
    for plan in judged:
        findings += _stage(plan, said.get(_part(plan.spec), {})) if isinstance(plan, Plan) else plan
    return tuple(findings)


def _part(spec: Spec) -> str | None:
    """The stage or variant that a layout's claims are made in; None: the run makes them itself."""
    return spec.stage or spec.variant


def _said(claims: Mapping[str, Claim]) -> Said:
    return {metric: claim.value for metric, claim in claims.items()}


def _resolved(spec: Spec) -> Plan | list[Finding]:
    try:
        return resolve(spec)
    except ConfigError as error:
        return [Finding(check="layout", stage=_part(spec), agrees=False, message=str(p)) for p in error.problems]


def _best_mfu(said: Mapping[str | None, Said]) -> float | None:
    return max((claims["mfu"] for claims in said.values() if "mfu" in claims), default=None)


def _stage(plan: Plan, said: Said) -> Iterator[Finding]:
    """World product, batch product and rates of one stage."""
    stage, grid = _part(plan.spec), plan.grid
    if "dp" in said:
        product = grid.tp * grid.gtp * grid.cp * grid.pp * said["dp"]
        gathered = ("gtp * ", f"{grid.gtp} * ") if grid.gtp > 1 else ("", "")
        factors = f"{grid.tp} * {gathered[1]}{grid.cp} * {grid.pp} * {said['dp']:g}"
        degrees = f"tp * {gathered[0]}cp * pp * dp = {factors}"
        yield compare("dp", said["dp"], float(grid.dp), "GPUs / (tp * cp * pp)", stage=stage)
        yield Finding(
            check="world",
            stage=stage,
            agrees=product == grid.world,
            message=f"{degrees} = {product:,.0f}, on {grid.world:,} GPUs",
            claimed=product,
            computed=float(grid.world),
        )
    if "tokens_per_step" in said:
        convention = "global batch * sequence"
        yield compare("tokens_per_step", said["tokens_per_step"], plan.batch.tokens, convention, TOKENS, stage)
    yield from _rates(plan, said)


def _rates(plan: Plan, said: Said) -> Iterator[Finding]:
    """Claimed rates against each other: step time, throughput, TFLOP/s and MFU are one number four times."""
    stage = _part(plan.spec)
    rate = said.get("tokens_per_s_per_gpu")
    if rate is None and "step_seconds" in said:
        rate = plan.batch.tokens / (said["step_seconds"] * plan.grid.world)
    if rate is None:
        if {"mfu", "tflops_per_gpu"} <= said.keys():
            part = said["tflops_per_gpu"] * 1e12 / peak_flops(plan)
            yield compare("mfu", said["mfu"], part, f"{said['tflops_per_gpu']:g} TFLOP/s of bf16 peak", RATE, stage)
        return
    computed = {
        "mfu": (mfu(plan, rate), "palm"),
        "tflops_per_gpu": (model_flops_per_token(plan) * rate / 1e12, "palm"),
        "causal_tflops_per_gpu": (causal_flops_per_token(plan) * rate / 1e12, "causal"),
        "hardware_tflops_per_gpu": (hardware_flops_per_token(plan) * rate / 1e12, "recompute"),
    }
    for metric in (metric for metric in computed if metric in said):
        value, convention = computed[metric]
        tolerance = CAUSAL if convention == "causal" else RATE
        yield compare(metric, said[metric], value, f"{convention}, at {rate:,.1f} tokens/s/GPU", tolerance, stage)
    if computed.keys().isdisjoint(said):
        yield possible(
            "throughput", rate, mfu(plan, rate) / eight_bit_speedup(plan), f"{rate:,.1f} tokens/s/GPU", stage
        )


def _run(plans: Sequence[Plan], said: Said, best_mfu: float | None, whole: bool) -> Iterator[Finding]:
    """Parameters, tokens, FLOPs and GPU hours. ``whole``: every stage of the run is among ``plans``."""
    plan = plans[0]
    if "parameters" in said:
        yield compare("parameters", said["parameters"], plan.total_parameters, "every weight, tied ones once")
    if "active_parameters" in said:
        convention = "the weights one token uses"
        yield compare("active_parameters", said["active_parameters"], plan.active_parameters, convention, ACTIVE)
    if "total_tokens" in said:
        yield from _tokens(plans, said["total_tokens"], whole)
    tokens = said.get("total_tokens") or sum(filter(None, map(_trained, plans)))
    if "train_flops" in said:
        flops = 6.0 * plan.active_parameters * tokens
        yield compare("train_flops", said["train_flops"], flops, "6 * active parameters * tokens", RATE)
    if "gpu_hours" in said and tokens:
        yield _hours(plan, "gpu_hours", said["gpu_hours"], tokens, best_mfu)
    if "gpu_hours_per_trillion" in said:
        yield _hours(plan, "gpu_hours_per_trillion", said["gpu_hours_per_trillion"], 1e12, best_mfu)


def _tokens(plans: Sequence[Plan], claimed: float, whole: bool) -> Iterator[Finding]:
    """Steps * tokens a step over all stages; a stage of unknown length makes that a lower bound."""
    known = [trained for plan in plans if (trained := _trained(plan)) is not None]
    bound = not whole or len(known) < len(plans)
    convention = f"steps * tokens a step, {'at least' if bound else 'over all stages'}"
    if known and (not bound or sum(known) > claimed):
        yield compare("total_tokens", claimed, sum(known), convention, TOKENS)


def _trained(plan: Plan) -> float | None:
    tokens = plan.spec.training.tokens
    return float(tokens) if tokens is not None else plan.tokens or None


def _hours(plan: Plan, metric: str, claimed: float, tokens: float, best_mfu: float | None) -> Finding:
    """The run's FLOPs as GPU hours at the claimed MFU, or the MFU that the claimed hours mean."""
    at_peak = model_flops_per_token(plan) * tokens / peak_flops(plan) / 3600
    if best_mfu is None:
        return possible(metric, claimed, at_peak / claimed, f"{claimed:,.0f} GPU hours")
    hours = at_peak / best_mfu
    days = f"{hours / 24 / plan.grid.world:,.0f} days on {plan.grid.world:,} GPUs"
    return compare(metric, claimed, hours, f"palm, at an MFU of {best_mfu:g}: {days}", HOURS)
