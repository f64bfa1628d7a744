"""``meshwright plan``: resolve and explain; writes nothing but the trace that is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwright.compose import Run
from meshwright.errors import ConfigError, Problem
from meshwright.layout.plan import Plan
from meshwright.library.published import departures, published_hours, sketched, spared
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.verbs import Words
from meshwright.verbs.sweep import attempts, print_all, problems_of, wrong

if TYPE_CHECKING:
    from meshwright.cost import Cost
    from meshwright.report.sweep import Row

__all__ = ["run", "sweep"]

Point = tuple[Run, list[Plan]]


def run(words: Words) -> int:
    """Print each stage's plan."""
    asked, plans = _resolved(words)
    traces = _traces(asked, plans)
    if asked.options.output == "json":
        print_all([words], [_document((asked, plans))])
    else:
        _show(asked, plans)
    for plan, path in traces:
        _write(plan, path)
    return 0


def sweep(jobs: Sequence[Words]) -> int:
    """Compare the points in a table; 2 where one is wrong, which the others outlive."""
    from meshwright.report.sweep import show

    points = attempts(jobs, _resolved)
    made = [point for point in points if not isinstance(point, ConfigError)]
    if not made:
        raise wrong(jobs, points)
    if made[0][0].options.trace is not None:
        message = f"one file for {len(jobs)} points of a sweep; trace one of them"
        raise ConfigError([Problem("trace", message, "plan.trace")])
    if made[0][0].options.output == "json":
        print_all(jobs, [_document(point) for point in points])
    else:
        show([row for words, point in zip(jobs, points, strict=True) for row in _rows(words, point)])
    return 0 if len(made) == len(points) else 2


def _resolved(words: Words) -> Point:
    asked = load(words.overrides, words.config_dir)
    if asked.options.why:
        elsewhere = "answered by meshwright search, with the same words; plan resolves one layout and ranks none"
        raise ConfigError([Problem("why", elsewhere, "plan.why")])
    return asked, [resolve(spec) for spec in asked.stages]


def _traces(asked: Run, plans: Sequence[Plan]) -> list[tuple[Plan, Path]]:
    """The plans with the files of their traces, checked before anything is printed."""
    if asked.options.trace is None:
        return []
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


def _rows(words: Words, point: Point | ConfigError) -> Iterator[Row]:
    from meshwright.cost import cost
    from meshwright.report.sweep import Row

    if isinstance(point, ConfigError):
        yield from (Row(words.swept, problem) for problem in point.problems)
    else:
        yield from (Row(words.swept, cost(plan), plan.spec.stage) for plan in point[1])


def _document(point: Point | ConfigError) -> dict[str, Any]:
    from meshwright.cost.summary import run_summary
    from meshwright.report.problems import document

    if isinstance(point, ConfigError):
        return {"problems": document(problems_of(point))}
    return run_summary(point[0].name, point[1])


def _show(asked: Run, plans: Sequence[Plan]) -> None:
    from meshwright.cost import cost
    from meshwright.cost.duration import duration, together
    from meshwright.report.checkpoints import show as show_checkpoints
    from meshwright.report.cost import show_cost
    from meshwright.report.duration import show_duration, show_total
    from meshwright.report.plan import show

    sketch = sketched(asked)
    if sketch:
        print(f"sketch: {sketch}")
    costs = [cost(plan) for plan in plans]
    lengths = [duration(plan, of_plan) for plan, of_plan in zip(plans, costs, strict=True)]
    for before, plan, of_plan, length in zip((None, *plans), plans, costs, lengths, strict=False):
        show(plan, before=before)
        show_cost(of_plan, plan.spec.cluster.efficiency.source)
        show_duration(length)
        show_checkpoints(plan, of_plan.step_time)
    if len(plans) > 1:
        show_total(together(lengths))
    _show_published(asked, plans, costs)


def _show_published(asked: Run, plans: Sequence[Plan], costs: Sequence[Cost]) -> None:
    """What the authors say of it, and in what our plans are not theirs."""
    published = published_hours(asked)
    if published:
        print(f"published: {published}")
    for departure in departures(asked):
        print(f"not as published: {departure}")
    for plan, of_plan in zip(plans, costs, strict=True):
        if without := spared(asked, plan.spec):
            from meshwright.report.spared import words  # few recipes say so

            print(f"the authors' trainer{_in(plan)}: {words(of_plan, without)}")


def _in(plan: Plan) -> str:
    """The stage, where there are several."""
    return f" in {plan.spec.stage}" if plan.spec.stage else ""
