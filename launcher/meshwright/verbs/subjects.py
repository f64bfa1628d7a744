"""What the words of ``report`` name: plans, recipes, run folders, files of other programs, or a search."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.jobs.run_folder import files
from meshwright.jobs.written_spec import read_spec
from meshwright.layout.plan import Plan
from meshwright.library import files as library
from meshwright.library.recipe import Recipe
from meshwright.loading import load
from meshwright.report.page.html import Page
from meshwright.report.page.subject import Measured, Subject, values
from meshwright.resolver import resolve
from meshwright.spec import Spec
from meshwright.verbs import Words

__all__ = ["OURS", "page"]

OURS = ("out", "output", "format", "chart", "trace")
"""Words that say how to report, not what."""


def page(words: Words) -> Page:
    """Of one point: bare words are files, folders or recipes, quoted ones runs of their own, the rest is for all."""
    quoted = [word for word in words.overrides if len(_split(word)) > 1]
    named = [word for word in words.overrides if word not in quoted and _names(word)]
    rest = _what([word for word in words.overrides if word not in (*named, *quoted)])
    folders = [word for word in named if Path(word).is_dir()]
    foreign = [word for word in named if _is_file(word)]
    recipes = [word for word in named if word not in (*folders, *foreign)]
    _refuse(recipes, folders, [] if quoted or foreign else rest)
    subjects = [subject for folder in folders for subject in _of_folder(Path(folder))]
    described = [[f"recipe={name}", *rest] for name in recipes]
    described += [[*_split(word), *rest] for word in quoted] + [[word, *rest] for word in foreign]
    described = described or ([rest] if rest or not folders else [])
    plans = [_of_words(replace(words, overrides=tuple(each))) for each in described]
    return Page(
        [*subjects, *(subject for page in plans for subject in page.subjects)],
        [search for page in plans for search in page.searches],
    )


def _what(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.partition("=")[0] not in OURS]


def _names(word: str) -> bool:
    """Whether a word names something by itself, rather than set a key."""
    return "=" not in word and not word.startswith("~")


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # longer than a path may be, or none at all
        return False


def _split(word: str) -> list[str]:
    """The words of a run in one quoted argument; one, where it is none."""
    try:
        found = shlex.split(word)
    except ValueError:
        return [word]
    return found if all("=" in one or _is_file(one) for one in found) else [word]


def _refuse(recipes: Sequence[str], folders: Sequence[str], asked: Sequence[str]) -> None:
    """Raise ConfigError for words that name nothing, and for keys beside run folders, which are as they are."""
    known = library.names()
    problems = [
        Problem(
            "", f"{word} is neither a file, a folder nor a recipe; give one, or key=value as for plan", "report.what"
        )
        for word in recipes
        if word not in known
    ]
    if folders and not recipes and asked:
        problems.append(Problem("", f"{asked[0]} has no meaning beside a run folder; leave it out", "report.what"))
    if problems:
        raise ConfigError(problems)


def _of_words(words: Words) -> Page:
    if any(map(_names, words.overrides)):
        return Page(list(_of_files(words)))
    if "parallelism=auto" in words.overrides:
        return _searched(words)
    asked = load(words.overrides, words.config_dir)
    return Page([_subject(spec, words) for spec in asked.stages])


def _of_files(words: Words) -> Iterator[Subject]:
    """What files of another program describe together, each value with the line that says it."""
    from meshwright.imports.run import described
    from meshwright.verbs.foreign import foreign

    asked = foreign(words, "report", {})
    said = {path: str(asked.imported.place(path)) for path in asked.imported.values}
    for spec in described(asked.imported, asked.overrides, words.config_dir).stages:
        plan = resolve(spec)
        yield Subject(plan, values(plan, None, asked.overrides, said), _files(plan), imported=asked.imported)


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
