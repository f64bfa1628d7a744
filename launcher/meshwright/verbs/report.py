"""``meshwright report WHAT...``: one self-contained page of plans, recipes, run folders, or a search."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from meshwright.compose import Options
from meshwright.compose import load as described
from meshwright.errors import ConfigError, Problem
from meshwright.jobs.output_file import output_file, unwritable
from meshwright.jobs.run_folder import files
from meshwright.jobs.written_spec import read_spec
from meshwright.layout.plan import Plan
from meshwright.library import files as library
from meshwright.library.recipe import Recipe
from meshwright.loading import load
from meshwright.report.page.html import Page, html
from meshwright.report.page.subject import Measured, Subject, values
from meshwright.resolver import resolve
from meshwright.spec import Spec
from meshwright.verbs import Words
from meshwright.verbs.sweep import every

__all__ = ["run", "sweep"]

_OURS = ("out", "output", "format", "chart")
"""Words that say how to report, not what."""


def run(words: Words) -> int:
    """Write the page of everything that is named."""
    return sweep([words])


def sweep(jobs: Sequence[Words]) -> int:
    """Write one page of every point."""
    options = _options(jobs[0])
    name = options.out or ("report.html" if options.format == "html" else f"{options.chart}.{options.format}")
    path = output_file("out", name, (f".{options.format}",))
    assert path is not None  # a name was given
    pages = every(jobs, _page)
    subjects = _told_apart([subject for page in pages for subject in page.subjects], jobs)
    page = Page(subjects, [one for page in pages for one in page.searches], _title(subjects))
    try:
        path.write_text(html(page), "utf-8") if options.format == "html" else _draw(options.chart, page, path)
    except OSError as error:
        raise ConfigError([unwritable("out", str(error))]) from None
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _draw(chart: str, page: Page, path: Path) -> None:
    from meshwright.report.page.picture import draw

    if len(page.subjects) > 1:
        titles = ", ".join(one.title for one in page.subjects)
        raise ConfigError([Problem("chart", f"a picture is of one plan, here are {titles}; name one", "report.chart")])
    draw(chart, page.subjects[0], path)


def _options(words: Words) -> Options:
    ours = [word for word in words.overrides if word.partition("=")[0] in _OURS]
    return described(ours).options


def _what(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.partition("=")[0] not in _OURS]


def _page(words: Words) -> Page:
    """Of one point: bare words are run folders or recipes, quoted ones runs of their own, the rest is for all plans."""
    quoted = [word for word in words.overrides if len(_split(word)) > 1]
    named = [word for word in words.overrides if "=" not in word and not word.startswith("~")]
    rest = _what([word for word in words.overrides if word not in (*named, *quoted)])
    folders = [word for word in named if Path(word).is_dir()]
    recipes = [word for word in named if word not in folders]
    _refuse(recipes, folders, [] if quoted else rest)
    subjects = [subject for folder in folders for subject in _of_folder(Path(folder))]
    described = [[f"recipe={name}", *rest] for name in recipes] + [[*_split(word), *rest] for word in quoted]
    described = described or ([rest] if rest or not folders else [])
    plans = [_of_words(replace(words, overrides=tuple(each))) for each in described]
    return Page(
        [*subjects, *(subject for page in plans for subject in page.subjects)],
        [search for page in plans for search in page.searches],
    )


def _split(word: str) -> list[str]:
    """The words of a run in one quoted argument; one, where it is none."""
    try:
        found = shlex.split(word)
    except ValueError:
        return [word]
    return found if all("=" in one for one in found) else [word]


def _refuse(recipes: Sequence[str], folders: Sequence[str], asked: Sequence[str]) -> None:
    """Raise ConfigError for words that name nothing, and for keys beside run folders, which are as they are."""
    known = library.names()
    problems = [
        Problem("", f"{word} is neither a folder nor a recipe; give one, or key=value as for plan", "report.what")
        for word in recipes
        if word not in known
    ]
    if folders and not recipes and asked:
        problems.append(Problem("", f"{asked[0]} has no meaning beside a run folder; leave it out", "report.what"))
    if problems:
        raise ConfigError(problems)


def _of_words(words: Words) -> Page:
    if "parallelism=auto" in words.overrides:
        return _searched(words)
    asked = load(words.overrides, words.config_dir)
    return Page([_subject(spec, words) for spec in asked.stages])


def _searched(words: Words) -> Page:
    """The winner of each stage, and the answers of the search."""
    from meshwright.report.search import document
    from meshwright.search import search
    from meshwright.verbs.search import measure_command

    results = search(words.overrides, words.config_dir)
    command = measure_command(_what(words.overrides), min(len(result.ranking.best) for result in results))
    winners = [_subject(result.ranking.best[0].spec, words) for result in results]
    return Page(winners, [document(result, command) for result in results])


def _subject(spec: Spec, words: Words) -> Subject:
    plan = resolve(spec)
    recipe = _recipe(words)
    here = [word for word in words.overrides if not word.startswith("recipe=")]
    return Subject(plan, values(plan, recipe, here), _files(plan))


def _files(plan: Plan) -> dict[str, str]:
    """What the plan becomes, but for plan.json: the page itself has its numbers."""
    return {name: text for name, text in files(plan).items() if name != "plan.json"}


def _recipe(words: Words) -> Recipe | None:
    """That the words choose last."""
    chosen = [word.partition("=")[2] for word in words.overrides if word.startswith("recipe=")]
    return library.recipe(chosen[-1], words.config_dir) if chosen else None


def _of_folder(folder: Path) -> Iterator[Subject]:
    """The runs of a folder, each with what it measured.

    Raises:
        ConfigError: where there is none, or where its configuration cannot be read.

    """
    from meshwright.jobs.status import statuses
    from meshwright.train.metrics import read

    for one in statuses(folder):
        plan = resolve(read_spec(one.folder))
        recipe = library.recipe(plan.spec.name) if plan.spec.name in library.names() else None
        measured = Measured(one, tuple(read(one.folder / "metrics.jsonl")))
        yield Subject(plan, values(plan, recipe, []), _files(plan), measured)


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
