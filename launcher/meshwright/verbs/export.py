"""``meshwright export to=NAME``: files for a program that others launch, judged by that program's own code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from meshwright.compose import Options
from meshwright.emit.exports import EXPORTS
from meshwright.errors import ConfigError, Problem
from meshwright.jobs.export import export
from meshwright.jobs.paths import absolute
from meshwright.jobs.run_folder import Compiled, folder_name
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.spec.frozen import dataclass
from meshwright.verbs import Words
from meshwright.verbs.sweep import every, print_all

__all__ = ["run", "sweep"]


def run(words: Words) -> int:
    """Export every stage; 1 where a check of a verdict failed."""
    return sweep([words])


def sweep(jobs: Sequence[Words]) -> int:
    """Export every point, as ``run`` does."""
    points = every(jobs, _resolved)
    written = [export(p.program, p.plans, p.folders, verify=p.options.verify) for p in points]
    if points[0].options.output == "json":
        print_all(jobs, [_document(point, of) for point, of in zip(points, written, strict=True)])
    else:
        from meshwright.report.compiled import show

        for point, of in zip(points, written, strict=True):
            for plan, one in zip(point.plans, of, strict=True):
                show(plan, one)
    return 0 if all(one.passed for of in written for one in of) else 1


@dataclass(frozen=True)
class _Point:
    program: str
    plans: Sequence[Plan]
    options: Options

    @property
    def folders(self) -> list[Path]:
        return [Path(self.options.runs) / folder_name(plan.spec) for plan in self.plans]


def _resolved(words: Words) -> _Point:
    asked = load(words.overrides, words.config_dir)
    program = _known(asked.options.to)
    return _Point(program, [resolve(absolute(spec), program) for spec in asked.stages], asked.options)


def _known(to: str | None) -> str:
    if to in EXPORTS:
        return str(to)
    close = [name for name in EXPORTS if to and name.startswith(to)] or get_close_matches(str(to), EXPORTS, n=1)
    hint = f"did you mean {' or '.join(close)}?" if to and close else f"there are {', '.join(EXPORTS)}"
    raise ConfigError([Problem("to", f"{'not set' if to is None else f'no program {to!r}'}; {hint}", "export.to")])


def _document(point: _Point, written: Sequence[Compiled]) -> dict[str, Any]:
    return {"to": point.program, "stages": [_stage(one) for one in written]}


def _stage(one: Compiled) -> dict[str, Any]:
    verdicts = [{**asdict(verdict), "passed": verdict.passed} for verdict in one.verdicts]
    return {"folder": str(one.folder), "files": list(one.files), "verdicts": verdicts}
