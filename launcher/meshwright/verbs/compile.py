"""``meshwright compile``: write the run folder of every stage and let the backends' own code judge it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meshwright.compose import Run
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
        print_all(list(_documents(points, compiled)))
    else:
        from meshwright.report.compiled import show

        for plan, one in zip(plans, compiled, strict=True):
            show(plan, one)
    return 0 if all(one.passed for one in compiled) else 1


def _resolved(words: Words) -> Point:
    asked = load(words.overrides, words.config_dir)
    plans = list(joined([resolve(absolute(spec)) for spec in asked.stages]))
    return asked, plans, [Path(asked.options.runs) / folder_name(plan.spec) for plan in plans]


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
