"""A comparison of two runs for people, for a review (Markdown), and for machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshwright.compare import Comparison, Pair, Stage
from meshwright.compare.fields import Difference
from meshwright.compare.numbers import Number
from meshwright.cost.memory import GIB
from meshwright.spec.effect import Effect

__all__ = ["document", "markdown", "show"]

WIDE = 240  # columns where nobody's terminal limits them

Rows = Sequence[tuple[str, str, str, str]]  # name, a, b, remark

_TITLES: dict[Effect, str] = {
    "learned": "changes what is learned",
    "runs": "changes only how it runs",
    "described": "changes names and predictions alone",
}
_TOLD: dict[Effect, str] = {
    "learned": "in what is learned",
    "runs": "in how it runs alone",
    "described": "in names and predictions alone",
}


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print ``comparison`` to the terminal."""
    console = console or Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
    for line in _head(comparison):
        console.print(Text(line))
    for pair in comparison.pairs:
        console.print(Text(_couple(pair), style="bold"))
        for title, rows in _sections(pair):
            console.print(Text(f"  {title}", style="yellow"))
            console.print(_table(rows))


def markdown(comparison: Comparison) -> Iterator[str]:
    """Lines of Markdown, a table a section."""
    yield from (f"{_cell(line)}  " for line in _head(comparison))
    for pair in comparison.pairs:
        yield from ("", f"## {_cell(_couple(pair))}")
        for title, rows in _sections(pair):
            yield from ("", f"### {title}", "", "| | A | B | |", "|---|---|---|---|")
            yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows)


def document(comparison: Comparison) -> dict[str, Any]:
    """The machine-readable form."""
    return {
        "a": comparison.a.name,
        "b": comparison.b.name,
        "differences": {effect: comparison.count(effect) for effect in _TITLES},
        "stages": [_pair(pair) for pair in comparison.pairs],
        "only_a": [_name(stage) for stage in comparison.only_a],
        "only_b": [_name(stage) for stage in comparison.only_b],
    }


def _pair(pair: Pair) -> dict[str, Any]:
    numbers = {name: getattr(pair, name) for name in ("derived", "emitted", "predicted", "measured")}
    return {
        "a": _name(pair.a),
        "b": _name(pair.b),
        "fields": [
            {**asdict(one), "origin_a": pair.a.origin(one.path), "origin_b": pair.b.origin(one.path)}
            for one in pair.fields
        ],
        **{
            name: None if of is None else [{**asdict(one), "change": one.change} for one in of]
            for name, of in numbers.items()
        },
    }


def _head(comparison: Comparison) -> Iterator[str]:
    yield f"A: {comparison.a.name}"
    yield f"B: {comparison.b.name}"
    counts = {effect: comparison.count(effect) for effect in _TITLES}
    told = [f"{counts[effect]} {words}" for effect, words in _TOLD.items() if counts[effect]]
    yield f"differences: {', '.join(told)}" if told else "equal in effect"
    for letter, stages in (("A", comparison.only_a), ("B", comparison.only_b)):
        yield from (f"only {letter} has stage {_name(stage)}" for stage in stages)


def _couple(pair: Pair) -> str:
    names = _name(pair.a), _name(pair.b)
    return names[0] if names[0] == names[1] else f"{names[0]} → {names[1]}"


def _name(stage: Stage) -> str:
    return f"{stage.spec.name}/{stage.spec.stage}" if stage.spec.stage else stage.spec.name


def _sections(pair: Pair) -> Iterator[tuple[str, Rows]]:
    """Every section that has rows, with its title."""
    sections: list[tuple[str, Rows]] = [
        (title, [_field(pair, one) for one in pair.fields if one.effect == effect]) for effect, title in _TITLES.items()
    ]
    numbers = {"derived": pair.derived, "written": pair.emitted, "predicted": pair.predicted}
    sections += [(title, [*map(_number, of)]) for title, of in numbers.items()]
    sections.append(("measured", [*map(_number, pair.measured or ())]))
    yield from ((title, rows) for title, rows in sections if rows)


def _field(pair: Pair, one: Difference) -> tuple[str, str, str, str]:
    origins = pair.a.origin(one.path), pair.b.origin(one.path)
    remark = " → ".join(origin or "not said" for origin in origins) if any(origins) else ""
    return one.path, _value(one.a), _value(one.b), remark


def _number(one: Number) -> tuple[str, str, str, str]:
    change = one.change
    a, b = (_measure(one.name, value) for value in (one.a, one.b))
    return one.name.replace("_bytes", ""), a, b, "" if change is None else _change(change)


def _measure(name: str, value: Any) -> str:
    """A number in the unit that people read."""
    if not isinstance(value, float):
        return _value(value)
    if "_bytes" in name:
        return f"{value / GIB:,.1f} GiB"
    if name in ("mfu", "hfu", "fit_probability"):
        return f"{value:.1%}"
    return f"{value:.12g}" if name.startswith("loss of") else _value(value)


def _change(change: float) -> str:
    return f"×{change + 1:.3g}" if change >= 1 else f"{change:+.1%}"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{_printable(key)} {_value(item)}" for key, item in value.items() if item != "")
    return ", ".join(map(_value, value)) if isinstance(value, list) else _printable(str(value))


def _printable(text: str) -> str:
    """Control characters of a user's text are shown escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _table(rows: Rows) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for name in ("name", "a", "b", "remark"):
        table.add_column(overflow="fold", no_wrap=name == "name", style="dim" if name == "remark" else None)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _cell(text: str) -> str:
    """Text that no table, heading or HTML of Markdown takes for its own."""
    for mark, harmless in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("*", "\\*"), ("_", "\\_")):
        text = text.replace(mark, harmless)
    return _printable(text)
