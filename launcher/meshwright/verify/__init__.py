"""The proof: the backends' own parsers and constructors judge what was emitted, on a CPU, at the true world size."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from meshwright.emit.backends import FILES
from meshwright.layout.plan import Plan
from meshwright.resolver import refusals
from meshwright.rules.requirements import needed
from meshwright.verify.pool import Crash, fork_map
from meshwright.verify.verdict import Check, Verdict

__all__ = ["Check", "Verdict", "verify"]


def verify(plans: Sequence[Plan], programs: Sequence[str] | None = None) -> list[tuple[Verdict, ...]]:
    """One Verdict for each backend that can express each plan, or for each of other ``programs``.

    Each backend is imported once, in a process of its own, and each check runs in a fork of that.
    """
    asked = FILES if programs is None else programs
    able = {name: [i for i, plan in enumerate(plans) if not refusals(plan.spec, name)] for name in asked}
    jobs = [(backend, [plans[i] for i in indices]) for backend, indices in able.items() if indices]
    judged: dict[int, list[Verdict]] = {i: [] for i in range(len(plans))}
    for (backend, _), verdicts in zip(jobs, fork_map(_judge, jobs), strict=True):
        for place, i in enumerate(able[backend]):
            judged[i].append(_crashed(backend, verdicts) if isinstance(verdicts, Crash) else verdicts[place])
    return [tuple(judged[i]) for i in range(len(plans))]


def _crashed(backend: str, crash: Crash) -> Verdict:
    return Verdict(backend, {}, (Check("imported", False, crash.text),))


def _judge(job: tuple[str, list[Plan]]) -> list[Verdict]:
    backend, plans = job
    judge = import_module(f"meshwright.verify.{backend}")
    judge.warm()
    found = fork_map(judge.check, [(name, plan) for plan in plans for name in judge.CHECKS])
    width = len(judge.CHECKS)
    checks = [
        Check(judge.CHECKS[i % width], False, check.text) if isinstance(check, Crash) else check
        for i, check in enumerate(found)
    ]
    versions = judge.versions()
    return [
        Verdict(backend, versions, tuple(checks[i * width : (i + 1) * width]), _needs(plan, backend))
        for i, plan in enumerate(plans)
    ]


def _needs(plan: Plan, backend: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{row.name} ({row.option})" for row in needed(plan.spec, backend)))
