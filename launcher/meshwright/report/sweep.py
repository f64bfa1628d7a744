"""A sweep for people: a row a point, with the values swept and what comes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from meshwright.cost import Cost
from meshwright.cost.fitting import fit_words
from meshwright.cost.memory import GIB
from meshwright.errors import Problem
from meshwright.report.terminal import terminal
from meshwright.spec.frozen import dataclass

__all__ = ["Row", "show"]

_COSTS = ("to fit", "memory", "step", "tokens/s", "MFU")


@dataclass(frozen=True)
class Row:
    """A point, or a stage of its run: what it costs, or the problem that keeps it from being a plan."""

    point: Mapping[str, str]
    outcome: Cost | Problem
    stage: str | None = None


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the table. Rich's own would pad every line to the longest problem, or cut it."""
    console = console or terminal()
    keys = list(dict.fromkeys(key for row in rows for key in row.point))
    named = [*keys, *["stage"] * any(row.stage for row in rows)]
    cells = [[*named, *_COSTS], *([*_names(row, named), *_outcome(row.outcome)] for row in rows)]
    head, *lines = _aligned(cells)
    console.print(Text(head, style="dim"))
    for row, line in zip(rows, lines, strict=True):
        console.print(Text(line, style="red" if isinstance(row.outcome, Problem) else ""))


def _names(row: Row, named: Sequence[str]) -> list[str]:
    return [row.point.get(name, row.stage or "" if name == "stage" else "") for name in named]


def _outcome(outcome: Cost | Problem) -> list[str]:
    if isinstance(outcome, Problem):
        return [str(outcome)]
    return [
        fit_words(outcome.fit_probability),
        f"{outcome.peak_memory / GIB:.1f} GiB",
        f"{outcome.step_time:.3g} s",
        f"{outcome.tokens_per_second:,.0f}",
        f"{outcome.mfu:.1%}",
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each row as a line of columns; what a short row says last, a problem, is in nobody's way."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for row in rows:
        last = "" if row in whole else row[-1]
        cells = row if row in whole else row[:-1]
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
        yield "  " + "  ".join([*padded, last]).rstrip()
