"""What each technique of a plan brings, and what it costs that a group leaves NVLink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.cost.estimate import Estimate, estimate
from meshwright.cost.memory import GIB
from meshwright.cost.techniques import SAID, Technique, at, changed, used
from meshwright.cost.time import Step
from meshwright.resolver import holds, layout, normalise, refusals
from meshwright.spec import Spec

__all__ = ["brought", "placed"]


def brought(spec: Spec) -> Iterator[str]:
    """One sentence for each technique in use, against the plan without it and without what needs it."""
    techniques = used(spec)
    now = estimate(layout(spec)) if techniques else None
    for one in techniques:
        without, gone = _without(spec, one)
        if without is None or now is None:
            yield f"{one.name} has no plan without it to compare with: {', '.join(gone)} would be refused"
            continue
        also = f"; left out with it: {', '.join(gone)}" if gone else ""
        yield f"{one.name} {_difference(now, estimate(layout(normalise(without))))}{also}"


def _without(spec: Spec, one: Technique) -> tuple[Spec | None, tuple[str, ...]]:
    """``spec`` without a technique, and the paths that rules' repairs leave out with it; None: these stay refused."""
    left, gone, backend = changed(spec, {**one.off, **one.derived}), set[str](), spec.backend.name
    while not holds(left, backend):
        problems = refusals(left, backend)
        repairs = (repair for problem in problems for repair in problem.repairs)
        mended = next((repair for repair in repairs if repair.keys().isdisjoint(one.off.keys() | gone)), None)
        if mended is None:
            return None, tuple(problem.path for problem in problems)
        gone |= {path for path, value in mended.items() if at(left, path) != value}
        left = changed(left, mended)
    return left, tuple(sorted(gone))


def placed(spec: Spec, step: Step) -> Iterator[str]:
    """What it costs that a group is larger than an NVLink domain, against a domain that would hold it."""
    p, fast = spec.parallelism, spec.cluster.nvlink_domain or spec.cluster.gpus_per_node
    kinds = (("tp", p.tp, "tensor"), ("ep·etp", p.ep * p.etp, "expert"), ("tp·gtp", p.tp * p.gtp, "data"))
    for name, group, part in kinds:
        if group <= fast or (name == "tp·gtp" and p.gtp == 1):
            continue
        joined = estimate(layout(replace(spec, cluster=replace(spec.cluster, nvlink_domain=group)))).parts
        lost = float(getattr(step, part) - getattr(joined, part)) / float(step.total)
        if lost >= SAID:
            yield f"{name} = {group} leaves the {fast} GPUs that NVLink joins, which costs {lost:.0%} of the step"


def _difference(now: Estimate, without: Estimate) -> str:
    gain = float(without.step_time / now.step_time) - 1
    memory = float(now.peak_memory - without.peak_memory) / GIB
    time = f"{'saves' if gain >= 0 else 'costs'} {abs(gain):.1%} of the step"
    return f"{time}, {'takes' if memory > 0 else 'frees'} {abs(memory):.1f} GiB of a GPU"
