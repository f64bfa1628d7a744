"""``meshwright compile``: write the run folder of every stage and let the backends' own code judge it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meshwright.compose import Run
from meshwright.cost import cost
from meshwright.jobs.paths import absolute
from meshwright.jobs.run_folder import Compiled, compile_all, folder_name
from meshwright.jobs.transition import joined
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.verbs import Words
from meshwright.verbs.sweep import every, print_all

__all__ = ["run", "sweep"]

Point = tuple[Run, list[Plan], list[Path]]


def run(words: Words) -> int:
    """Compile every stage; 1 where a check of a verdict failed."""
    return sweep([words])


def sweep(jobs: Sequence[Words]) -> int:
    """Compile every point, as ``run`` does."""
    points = every(jobs, _resolved)
    options = points[0][0].options
    plans = [plan for _, plans, _ in points for plan in plans]
    folders = [folder for _, _, folders in points for folder in folders]
    compiled = compile_all(plans, folders, verify=options.verify)
    if options.output == "json":
        print_all(jobs, list(_documents(points, compiled)))
    else:
        _show(jobs, points, compiled)
    return 0 if all(one.passed for one in compiled) else 1


def _resolved(words: Words) -> Point:
    asked = load(words.overrides, words.config_dir)
    plans = list(joined([resolve(absolute(spec)) for spec in asked.stages]))
    return asked, plans, [Path(asked.options.runs) / folder_name(plan.spec) for plan in plans]


def _show(jobs: Sequence[Words], points: Sequence[Point], compiled: Sequence[Compiled]) -> None:
    """Each folder with the point it belongs to, and a sweep's points compared."""
    from meshwright.report.compiled import show
    from meshwright.report.sweep import Row
    from meshwright.report.sweep import show as compare

    of_points = [(words, plan) for words, (_, plans, _) in zip(jobs, points, strict=True) for plan in plans]
    for (words, plan), one in zip(of_points, compiled, strict=True):
        show(plan, one, words.point)
    if len(jobs) > 1:
        compare([Row(words.swept, cost(plan), plan.spec.stage) for words, plan in of_points])


def _documents(points: Sequence[Point], compiled: Sequence[Compiled]) -> Iterator[dict[str, Any]]:
    from meshwright.cost.summary import run_summary

    written = iter(compiled)
    for asked, plans, _ in points:
        document = run_summary(asked.name, plans)
        extras = [_extras(next(written)) for _ in plans]
        document["stages"] = [{**stage, **extra} for stage, extra in zip(document["stages"], extras, strict=True)]
        yield {**document, **(extras[0] if len(extras) == 1 else {})}


def _extras(compiled: Compiled) -> dict[str, Any]:
    return {
        "folder": str(compiled.folder),
        "files": list(compiled.files),
        "verdicts": [{**asdict(verdict), "passed": verdict.passed} for verdict in compiled.verdicts],
    }
