"""The files that a search writes: checked before it begins, written when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from meshwright.compose.run import Search
from meshwright.errors import ConfigError, Problem
from meshwright.search import frontier
from meshwright.search.rank import Ranking

__all__ = ["Outputs", "outputs", "write"]


@dataclass(frozen=True)
class Outputs:
    """Where one stage's table and plot go; None where there is none."""

    table: Path | None
    plot: Path | None


def outputs(asked: Search, stages: Sequence[str | None]) -> list[Outputs]:
    """The files of each stage; of several stages, each has its own.

    Raises:
        ConfigError: where one cannot be written.

    """
    names = stages if len(stages) > 1 else [None]
    found = [
        Outputs(_file("table", asked.table, name, (".csv", ".json")), _file("plot", asked.plot, name, (".svg", ".png")))
        for name in names
    ]
    if asked.plot and find_spec("matplotlib") is None:
        missing = "needs matplotlib, which is not installed; pip install matplotlib"
        raise ConfigError([Problem("search.plot", missing, "search.plot")])
    return found


def write(files: Outputs, ranking: Ranking, as_json: Callable[[], str]) -> None:
    """The files of one stage.

    Raises:
        ConfigError: where one cannot be written any more.

    """
    try:
        if files.table and files.table.suffix == ".json":
            files.table.write_text(as_json())
        elif files.table:
            frontier.write_csv(files.table, ranking)
        if files.plot:
            frontier.plot(files.plot, ranking)
    except OSError as error:
        raise ConfigError([_unwritable("search", str(error))]) from None


def _file(key: str, name: str | None, stage: str | None, suffixes: tuple[str, ...]) -> Path | None:
    if name is None:
        return None
    path = Path(name).with_stem(f"{Path(name).stem}-{stage}") if stage else Path(name)
    problems = list(_problems(f"search.{key}", path, suffixes))
    if problems:
        raise ConfigError(problems)
    return path


def _problems(key: str, path: Path, suffixes: tuple[str, ...]) -> Iterator[Problem]:
    if path.suffix not in suffixes:
        yield Problem(key, f"{path} ends neither in {' nor in '.join(suffixes)}; name such a file", "search.file")
    elif not path.parent.is_dir():
        yield Problem(key, f"there is no folder {path.parent}; make it, or name another file", "search.file")
    elif error := _refusal(path):
        yield _unwritable(key, error)


def _refusal(path: Path) -> str:
    """Why nothing can be written there: only trying tells."""
    new = not path.exists()
    try:
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        return str(error)
    return ""


def _unwritable(key: str, error: str) -> Problem:
    return Problem(key, f"cannot write: {error}; name another file", "search.file")
