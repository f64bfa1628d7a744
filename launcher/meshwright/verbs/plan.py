"""``meshwright plan``: resolve and explain; writes nothing but the trace that is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

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
    traces = _traces(points)
    if points[0][0].options.output == "json":
        from meshwright.cost.summary import run_summary

        print_all([run_summary(asked.name, plans) for asked, plans in points])
    else:
        for asked, plans in points:
            _show(asked, plans)
    for plan, path in traces:
        _write(plan, path)
    return 0


def _resolved(words: Words) -> tuple[Run, list[Plan]]:
    asked = load(words.overrides, words.config_dir)
    if asked.options.why:
        elsewhere = "answered by meshwright search, with the same words; plan resolves one layout and ranks none"
        raise ConfigError([Problem("why", elsewhere, "plan.why")])
    return asked, [resolve(spec) for spec in asked.stages]


def _traces(points: Sequence[tuple[Run, list[Plan]]]) -> list[tuple[Plan, Path]]:
    """The plans with the files of their traces, checked before anything is printed."""
    asked, plans = points[0]
    if asked.options.trace is None:
        return []
    if len(points) > 1:
        message = f"one file for {len(points)} points of a sweep; trace one of them"
        raise ConfigError([Problem("trace", message, "plan.trace")])
    from meshwright.jobs.output_file import output_file

    names = [plan.spec.stage if len(plans) > 1 else None for plan in plans]
    paths = [output_file("trace", asked.options.trace, (".json", ".json.gz"), name) for name in names]
    return [(plan, path) for plan, path in zip(plans, paths, strict=True) if path is not None]


def _write(plan: Plan, path: Path) -> None:
    from meshwright.cost import cost
    from meshwright.cost.timeline import timeline
    from meshwright.report.trace import trace, write_trace

    costs = cost(plan)
    write_trace(path, trace(timeline(plan, costs.step), costs.traffic))
    print(f"trace: {path}", file=sys.stderr)


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
