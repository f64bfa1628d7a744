"""What a change of a plan would bring: the step time that a choice costs, or the memory that makes it fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, islice
from typing import Any

from meshwright.cost.estimate import Estimate, estimate_within
from meshwright.cost.memory import GIB
from meshwright.layout.plan import Plan
from meshwright.resolver import layout, normalise, override
from meshwright.rules import Layout, broken
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass

__all__ = ["Advice", "advice"]

WORTH = 0.02  # of the step; smaller gains are within the model's error
SHOWN = 3

Change = Mapping[str, Any]


@dataclass(frozen=True)
class Advice:
    """The first key to change, and what the change brings."""

    path: str
    message: str


def advice(plan: Plan, limit: float, now: Estimate) -> tuple[Advice, ...]:
    """The best changes by step time: one key that makes a plan fit that does not, or two; else one that is faster.

    ``limit``: bytes that the allocator can use. ``now``: what the plan's own layout takes.
    """
    singles = list(_changes(plan.spec))
    if now.peak_memory <= limit:
        lighter = singles if now.parts.offload else [c for c in singles if not _recomputes_more(plan.spec, c)]
        faster = (one for one in _fitting(plan.spec, lighter, limit) if one[1].step_time < (1 - WORTH) * now.step_time)
        return tuple(_faster(plan.spec, change, e, now, limit) for change, e in islice(faster, SHOWN))
    pairs = ({**a, **b} for a, b in combinations(singles, 2) if a.keys().isdisjoint(b))
    found = _fitting(plan.spec, singles, limit) or _fitting(plan.spec, pairs, limit)
    return tuple(_fits(change, e, now, limit) for change, e in found[:SHOWN])


def _recomputes_more(spec: Spec, change: Change) -> bool:
    """Such a change shortens no step, unless by what then need not leave the GPU."""
    return _LEVELS.index(change.get("parallelism.recompute", "none")) > _LEVELS.index(spec.parallelism.recompute)


_LEVELS = ("none", "selective", "full")


def _changes(spec: Spec) -> Iterator[Change]:
    """Each key's other values, one at a time."""
    p, t = spec.parallelism, spec.training
    yield from ({"parallelism.recompute": kind} for kind in ("none", "selective") if kind != p.recompute)
    if p.recompute != "full":  # which Megatron does not combine with hidden all-to-alls
        yield {"parallelism.recompute": "full", **({"parallelism.overlap_ep": False} if p.overlap_ep else {})}
    for modules in (("moe_act", "layernorm"), ("moe",)) if spec.model.moe else (("mlp",),):
        if modules != p.recompute_modules:
            yield {"parallelism.recompute_modules": modules, "parallelism.recompute": "selective"}
    yield from ({"parallelism.zero": stage} for stage in (1, 2, 3) if stage != p.zero)
    yield from ({"training.micro_batch": size} for size in (t.micro_batch // 2, 2 * t.micro_batch) if size)
    yield from ({"parallelism.vpp": chunks} for chunks in (1, 2, 4, 8) if chunks != p.vpp and p.pp > 1)
    for name in ("sp", "overlap_grad_reduce", "overlap_param_gather"):
        if not getattr(p, name):
            yield {f"parallelism.{name}": True}


def _fitting(spec: Spec, changes: Iterator[Change] | list[Change], limit: float) -> list[tuple[Change, Estimate]]:
    """The changes that fit, the fastest first."""
    layouts = ((change, _changed(spec, change)) for change in changes)
    looked_at = ((change, None if r is None else estimate_within(r, limit)) for change, r in layouts)
    fitting = [(change, found) for change, found in looked_at if found is not None]
    return sorted(fitting, key=lambda one: float(one[1].step_time))


def _changed(spec: Spec, change: Change) -> Layout | None:
    """The layout after a change; None where the backend refuses it."""
    changed = replace(spec, training=replace(spec.training, microbatches=None))
    if "parallelism.recompute" in change:
        bare: dict[str, Any] = {"recompute_method": None, "recompute_layers": None, "recompute_modules": None}
        changed = replace(changed, parallelism=replace(changed.parallelism, **bare))
    for path, value in change.items():
        changed = override(changed, path, value)
    numbers = layout(normalise(changed))
    return None if broken(numbers, spec.backend.name) else numbers


def _fits(change: Change, after: Estimate, now: Estimate, limit: float) -> Advice:
    longer = float(after.step_time / now.step_time) - 1
    time = f"the step takes {abs(longer):.0%} {'longer' if longer > 0 else 'less'}"
    path, *others = change
    more = "".join(f" with {other}={_said(change[other])}" for other in others if not path.startswith(other))
    return Advice(path, f"{_said(change[path])}{more} fits with {_room(after, limit)} to spare; {time}")


def _faster(spec: Spec, change: Change, after: Estimate, now: Estimate, limit: float) -> Advice:
    path = next(iter(change))
    saved = 1 - float(after.step_time / now.step_time)
    old = spec.parallelism.recompute if path.endswith("recompute_modules") else _at(spec, path)
    message = f"{_said(old)} costs {saved:.0%} of the step; {_said(change[path])} fits"
    return Advice(path, f"{message} with {_room(after, limit)} to spare")


def _at(spec: object, path: str) -> object:
    for name in path.split("."):
        spec = getattr(spec, name)
    return spec


def _room(after: Estimate, limit: float) -> str:
    return f"{(limit - float(after.peak_memory)) / GIB:.0f} GiB"


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
