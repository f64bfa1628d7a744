"""``meshwright report WHAT...``: one self-contained page of plans, recipes, run folders, foreign files, or a search."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meshwright.compose import Options
from meshwright.compose import load as described
from meshwright.errors import ConfigError, Problem
from meshwright.jobs.output_file import output_file, unwritable
from meshwright.report.page.html import Page, html
from meshwright.report.page.subject import Subject
from meshwright.verbs import Words
from meshwright.verbs.subjects import OURS, page
from meshwright.verbs.sweep import every

__all__ = ["run", "sweep"]


def run(words: Words) -> int:
    """Write the page of everything that is named."""
    return sweep([words])


def sweep(jobs: Sequence[Words]) -> int:
    """Write one page of every point, and the traces that are asked for."""
    options = _options(jobs[0])
    name = options.out or ("report.html" if options.format == "html" else f"{options.chart}.{options.format}")
    path = output_file("out", name, (f".{options.format}",))
    assert path is not None  # a name was given
    pages = every(jobs, page)
    subjects = _told_apart([subject for page in pages for subject in page.subjects], jobs)
    whole = Page(subjects, [one for page in pages for one in page.searches], _title(subjects))
    traces = _traces(options.trace, subjects)
    try:
        path.write_text(html(whole), "utf-8") if options.format == "html" else _draw(options.chart, whole, path)
        for one, file in traces:
            _write_trace(one, file)
    except OSError as error:
        raise ConfigError([unwritable("out", str(error))]) from None
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _traces(name: str | None, subjects: Sequence[Subject]) -> list[tuple[Subject, Path]]:
    """Each plan with the file of its trace, checked before anything is written; stages of one run are named for it."""
    if name is None:
        return []
    stages = [one.plan.spec.stage for one in subjects]
    if len(subjects) > 1 and (None in stages or len(set(stages)) < len(stages)):
        titles = ", ".join(one.title for one in subjects)
        raise ConfigError([Problem("trace", f"a trace is of one run, here are {titles}; name one", "report.trace")])
    paths = [output_file("trace", name, (".json", ".json.gz"), one if len(stages) > 1 else None) for one in stages]
    return [(one, path) for one, path in zip(subjects, paths, strict=True) if path is not None]


def _write_trace(one: Subject, path: Path) -> None:
    """The whole simulated step, and beside it what was profiled in the run's folder."""
    from meshwright.cost.timeline import timeline
    from meshwright.jobs.profiles import profiles
    from meshwright.report.kineto import beside
    from meshwright.report.trace import trace, write_trace

    document = trace(timeline(one.plan, one.cost.step), one.cost.traffic)
    found = list(profiles(one.measured.status.folder)) if one.measured else []
    write_trace(path, beside(document, found, one.plan) if found else document)
    print(f"trace: {path}{f', with {len(found)} measured' if found else ''}", file=sys.stderr)


def _draw(chart: str, page: Page, path: Path) -> None:
    from meshwright.report.page.picture import draw

    if len(page.subjects) > 1:
        titles = ", ".join(one.title for one in page.subjects)
        raise ConfigError([Problem("chart", f"a picture is of one plan, here are {titles}; name one", "report.chart")])
    draw(chart, page.subjects[0], path)


def _options(words: Words) -> Options:
    ours = [word for word in words.overrides if word.partition("=")[0] in OURS]
    return described(ours).options


def _told_apart(subjects: Sequence[Subject], jobs: Sequence[Words]) -> list[Subject]:
    """Points of a sweep are named by the words in which they differ; others by number where names are the same."""
    titles = [one.title for one in subjects]
    if len(jobs) == len(subjects) > 1:
        return [replace(one, label=words.point) for one, words in zip(subjects, jobs, strict=True)]
    return [
        replace(one, label=f"{one.title} ({titles[: i + 1].count(one.title)})") if titles.count(one.title) > 1 else one
        for i, one in enumerate(subjects)
    ]


def _title(subjects: Sequence[Subject]) -> str:
    return ", ".join(dict.fromkeys(one.plan.spec.name for one in subjects))
