"""The arithmetic of a recipe against what its authors claim.

Two numbers agree when they differ by less than one unit of the claim's last printed digit; rates also when they
differ by less than the conventions of counting FLOPs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from meshwright.compose import Run
from meshwright.conventions import hardware_flops_per_token, mfu, model_flops_per_token, peak_flops
from meshwright.errors import ConfigError
from meshwright.plan import Plan
from meshwright.recipe import Claim, Recipe
from meshwright.resolver import resolve

__all__ = ["Finding", "audit", "contradictions", "same_digits"]

RATE = 0.12  # conventions differ by halved attention, the head and the embedding: up to an eighth
ACTIVE = 0.05  # active parameters are counted with or without embedding and head
HOURS = 0.35  # hours count restarts, evaluation and slow phases that a best MFU does not
POSSIBLE_MFU = (0.05, 0.75)  # nobody has trained a large model outside this


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: what is claimed, what the arithmetic gives, and whether they agree."""

    check: str
    stage: str | None
    agrees: bool
    message: str
    claimed: float | None = None
    computed: float | None = None

    def __str__(self) -> str:
        """One line."""
        where = f"{self.stage}: " if self.stage else ""
        return f"{where}{self.check}: {self.message}"


def audit(recipe: Recipe, run: Run) -> tuple[Finding, ...]:
    """Every check that the recipe's claims and the run's stages allow, in the order of the recipe."""
    claims = {record.stage: record.claims for record in recipe.records}
    findings: list[Finding] = []
    plans: list[Plan] = []
    for spec in run.stages:
        try:
            plan = resolve(spec)
        except ConfigError as error:
            problems = [Finding(check="layout", stage=spec.stage, agrees=False, message=str(p)) for p in error.problems]
            findings += problems
            continue
        plans.append(plan)
        findings += _stage(plan, claims.get(spec.stage, {}))
    return (*_whole(plans, claims, whole=len(plans) == len(run.stages)), *findings)


def contradictions(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings in which claim and arithmetic differ."""
    return tuple(finding for finding in findings if not finding.agrees)


def same_digits(claimed: float, computed: float) -> bool:
    """Whether ``computed`` is within one unit of the last digit of ``claimed`` (405e9 has three digits, 0.41 two)."""
    mantissa, _, exponent = f"{claimed:.12e}".partition("e")
    digits = len(mantissa.rstrip("0").replace(".", "").lstrip("-"))
    unit = 10.0 ** (int(exponent) - digits + 1)
    return abs(claimed - computed) <= unit * (1 + 1e-9)


def _close(claimed: float, computed: float, tolerance: float) -> bool:
    return same_digits(claimed, computed) or abs(computed - claimed) <= tolerance * abs(claimed)


Check = tuple[str, Callable[[Plan], float], float, str]

STAGE_CHECKS: tuple[Check, ...] = (
    ("dp", lambda p: p.grid.dp, 0.0, "replicas: GPUs / (tp * cp * pp)"),
    ("tokens_per_step", lambda p: p.batch.tokens, 0.01, "global batch * sequence"),
    ("steps", lambda p: p.steps or inf, 0.0, "tokens / tokens a step"),
)


def _stage(plan: Plan, claims: Mapping[str, Claim]) -> Iterator[Finding]:
    stage = plan.spec.stage
    for metric, compute, tolerance, convention in STAGE_CHECKS:
        if metric in claims:
            yield _compare(metric, stage, claims[metric].value, float(compute(plan)), tolerance, convention)
            if metric == "dp":
                yield _world(plan, claims[metric].value)
    yield from _rates(plan, claims)


def _world(plan: Plan, dp: float) -> Finding:
    grid = plan.grid
    product = grid.tp * grid.cp * grid.pp * dp
    fits = product == grid.world
    degrees = f"tp * cp * pp * dp = {grid.tp} * {grid.cp} * {grid.pp} * {dp:,.0f} = {product:,.0f}"
    message = f"{degrees} GPUs, {'as' if fits else 'not'} {grid.world:,}"
    return Finding(
        check="world",
        stage=plan.spec.stage,
        agrees=fits,
        claimed=product,
        computed=float(grid.world),
        message=message,
    )


def _rates(plan: Plan, claims: Mapping[str, Claim]) -> Iterator[Finding]:
    """Claimed throughputs against each other: each gives an MFU, and all must be one."""
    stage, said = plan.spec.stage, {metric: claim.value for metric, claim in claims.items()}
    rate = said.get("tokens_per_s_per_gpu")
    if rate is None and "step_seconds" in said:
        rate = plan.batch.tokens / (said["step_seconds"] * plan.grid.world)
    if rate is not None and "mfu" in said:
        yield _compare("mfu", stage, said["mfu"], mfu(plan, rate), RATE, f"palm, at {rate:,.1f} tokens/s/GPU")
    if rate is not None and "tflops_per_gpu" in said:
        tflops = model_flops_per_token(plan) * rate / 1e12
        yield _compare(
            "tflops_per_gpu", stage, said["tflops_per_gpu"], tflops, RATE, f"palm, at {rate:,.1f} tokens/s/GPU"
        )
    if rate is not None and "hardware_tflops_per_gpu" in said:
        tflops = hardware_flops_per_token(plan) * rate / 1e12
        convention = f"recompute, at {rate:,.1f} tokens/s/GPU"
        yield _compare("hardware_tflops_per_gpu", stage, said["hardware_tflops_per_gpu"], tflops, RATE, convention)
    if rate is not None and not said.keys() & {"mfu", "tflops_per_gpu", "hardware_tflops_per_gpu"}:
        yield _possible("throughput", stage, rate, mfu(plan, rate), f"{rate:,.1f} tokens/s/GPU")
    if rate is None and "mfu" in said and "tflops_per_gpu" in said:
        part = said["tflops_per_gpu"] * 1e12 / peak_flops(plan)
        yield _compare("mfu", stage, said["mfu"], part, RATE, f"{said['tflops_per_gpu']:g} TFLOP/s of the bf16 peak")


def _whole(plans: Sequence[Plan], claims: Mapping[str | None, Mapping[str, Claim]], whole: bool) -> Iterator[Finding]:
    """Checks of the run itself: parameters, tokens, FLOPs, GPU hours."""
    said = {metric: claim.value for metric, claim in claims[None].items()}
    if not plans:
        return
    plan = plans[0]
    if "parameters" in said:
        yield _compare("parameters", None, said["parameters"], float(plan.total_parameters), 0.0, "every weight")
    if "active_parameters" in said:
        convention = "weights one token uses"
        yield _compare(
            "active_parameters", None, said["active_parameters"], float(plan.active_parameters), ACTIVE, convention
        )
    yield from _tokens(plans, said, whole)
    yield from _compute(plans, said, claims)


def _tokens(plans: Sequence[Plan], said: Mapping[str, float], whole: bool) -> Iterator[Finding]:
    """Tokens that the stages' steps train on. Stages of unknown length make the sum a lower bound."""
    if "total_tokens" not in said:
        return
    claimed = said["total_tokens"]
    known = [trained for plan in plans if (trained := _trained(plan)) is not None]
    computed = float(sum(known))
    if whole and len(known) == len(plans):
        yield _compare("total_tokens", None, claimed, computed, 0.02, "steps * tokens a step, over all stages")
    elif computed > claimed and not same_digits(claimed, computed):
        yield _compare("total_tokens", None, claimed, computed, 0.0, "steps * tokens a step, of the stages that say")


def _trained(plan: Plan) -> float | None:
    """Tokens of one stage: as stated, or steps * tokens a step."""
    tokens = plan.spec.training.tokens
    return float(tokens) if tokens is not None else plan.steps * plan.batch.tokens if plan.steps else None


def _compute(
    plans: Sequence[Plan], said: Mapping[str, float], claims: Mapping[str | None, Mapping[str, Claim]]
) -> Iterator[Finding]:
    """FLOPs of the run, the days they take, and the GPU hours claimed."""
    plan = plans[0]
    tokens = said.get("total_tokens") or sum(filter(None, map(_trained, plans)))
    if "train_flops" in said and tokens:
        flops = 6.0 * plan.active_parameters * tokens
        yield _compare("train_flops", None, said["train_flops"], flops, RATE, "6 * active parameters * tokens")
    best = max((claim["mfu"].value for claim in claims.values() if "mfu" in claim), default=None)
    for metric, over in (("gpu_hours", tokens), ("gpu_hours_per_trillion", 1e12)):
        if metric in said and over:
            yield _hours(plan, metric, said[metric], model_flops_per_token(plan) * over, best)


def _hours(plan: Plan, metric: str, claimed: float, flops: float, best: float | None) -> Finding:
    seconds = flops / peak_flops(plan)
    implied = seconds / 3600 / claimed
    if best is None:
        return _possible(metric, None, claimed, implied, f"{claimed:,.0f} GPU hours")
    hours = seconds / 3600 / best
    days = hours / 24 / plan.grid.world
    convention = f"palm, at an MFU of {best:g}: {days:,.0f} days on {plan.grid.world:,} GPUs"
    return _compare(metric, None, claimed, hours, HOURS, convention)


def _possible(check: str, stage: str | None, claimed: float, part: float, what: str) -> Finding:
    """A claim that stands alone: the part of the peak that it means."""
    low, high = POSSIBLE_MFU
    message = f"{what} mean an MFU of {part:.1%} (palm)"
    return Finding(check=check, stage=stage, agrees=low <= part <= high, claimed=claimed, message=message)


def _compare(check: str, stage: str | None, claimed: float, computed: float, tolerance: float, how: str) -> Finding:
    agrees = _close(claimed, computed, tolerance)
    verdict = "agree" if agrees else "contradict each other"
    message = f"claimed {_number(claimed)} and computed {_number(computed)} {verdict} ({how})"
    return Finding(check=check, stage=stage, agrees=agrees, claimed=claimed, computed=computed, message=message)


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.3g}"
