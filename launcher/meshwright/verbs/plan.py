"""``meshwright plan``: resolve and explain; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.compose import Run
from meshwright.errors import ConfigError, Problem
from meshwright.layout.plan import Plan
from meshwright.library.files import published_hours, sketched
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.verbs import Words
from meshwright.verbs.sweep import every, print_all

__all__ = ["run", "sweep"]


def run(words: Words) -> int:
    """Print each stage's plan."""
    return sweep([words])


def sweep(jobs: Sequence[Words]) -> int:
    """Print the plans of every point."""
    points = every(jobs, _resolved)
    if points[0][0].options.output == "json":
        from meshwright.cost.summary import run_summary

        print_all([run_summary(asked.name, plans) for asked, plans in points])
    else:
        for asked, plans in points:
            _show(asked, plans)
    return 0


def _resolved(words: Words) -> tuple[Run, list[Plan]]:
    asked = load(words.overrides, words.config_dir)
    if asked.options.why:
        elsewhere = "answered by meshwright search, with the same words; plan resolves one layout and ranks none"
        raise ConfigError([Problem("why", elsewhere, "plan.why")])
    return asked, [resolve(spec) for spec in asked.stages]


def _show(asked: Run, plans: Sequence[Plan]) -> None:
    from meshwright.cost import cost
    from meshwright.cost.duration import duration, together
    from meshwright.report.cost import show_cost
    from meshwright.report.duration import show_duration, show_total
    from meshwright.report.plan import show

    sketch = sketched(asked)
    if sketch:
        print(f"sketch: {sketch}")
    costs = [cost(plan) for plan in plans]
    lengths = [duration(plan, of_plan) for plan, of_plan in zip(plans, costs, strict=True)]
    for plan, of_plan, length in zip(plans, costs, lengths, strict=True):
        show(plan)
        show_cost(of_plan)
        show_duration(length)
    if len(plans) > 1:
        show_total(together(lengths))
    published = published_hours(asked)
    if published:
        print(f"published: {published}")
