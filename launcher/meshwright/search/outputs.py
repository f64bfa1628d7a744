"""The files that a search writes: checked before it begins, written when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from meshwright.compose.run import Search
from meshwright.errors import ConfigError, Problem
from meshwright.jobs.output_file import output_file, unwritable
from meshwright.search import frontier
from meshwright.search.rank import Ranking
from meshwright.spec.frozen import dataclass

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
        Outputs(
            output_file("search.table", asked.table, (".csv", ".json"), name),
            output_file("search.plot", asked.plot, (".svg", ".png"), name),
        )
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
        raise ConfigError([unwritable("search", str(error))]) from None
