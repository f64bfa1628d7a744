"""Errors on measured runs for people: one line a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshwright.report.terminal import terminal

__all__ = ["calibration", "show", "skipped_lines", "statistics_line"]

_NAMED = 3  # skipped rows that are named for one reason


def show(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the tables of a validation document."""
    console = console or terminal()
    sources = {**result["summary"]["sources"], "all": result["summary"]["overall"]}
    for title, part in (("step time", "step_time"), ("peak memory", "peak_memory")):
        rows = {name: values[part] for name, values in sources.items() if values[part]}
        if rows:
            console.print(Text(f"{title}: predicted over measured less one, in %", style="bold"))
            console.print(_errors(rows))
    for name, values in sources.items():
        _show_rest(console, name, values)
    for line in skipped_lines(result["skipped"]):
        console.print(Text(line, style="dim"))


def skipped_lines(skipped: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A line for each reason, the most frequent first, with the first rows that it skips."""
    by_reason: dict[str, list[str]] = {}
    for skip in skipped:
        by_reason.setdefault(skip["reason"], []).append(skip["row_id"])
    for reason, rows in sorted(by_reason.items(), key=lambda pair: -len(pair[1])):
        named = ", ".join([*rows[:_NAMED], *["..."] * (len(rows) > _NAMED)])
        yield f"  skipped {len(rows)}: {reason} ({named})"


def calibration(result: Mapping[str, Any]) -> Iterator[str]:
    """How well fitted constants meet the rows, and what their interval is worth."""
    spread = result["efficiency"]["spread"]
    yield from (f"  warning: {warning}" for warning in result["warnings"])
    yield statistics_line("in the fit", result["in_fit"])
    if result["left_out"]:
        yield statistics_line("each group left out", result["left_out"])
        yield f"  spread {spread:.3f}: holds 80 % of the rows whose group was left out"
    else:
        yield (
            f"  spread {spread:.3f}: the cluster's former one, or that of the fit where it is larger. All rows are one "
            "group (source and model), so none could be left out and no interval is known; add another model's rows"
        )
    yield from skipped_lines(result["skipped"])


def statistics_line(title: str, errors: Sequence[float]) -> str:
    """One line on relative errors."""
    sizes = sorted(map(abs, errors))
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return f"  {title}: median {median(sizes):.1%}, 90th percentile {ninth:.1%}, largest {sizes[-1]:.1%}"


def _errors(rows: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("source")
    for name in ("rows", "median", "mean", "p90", "max", "bias"):
        table.add_column(name, justify="right")
    for name, row in rows.items():
        figures = (f"{100 * row[key]:.1f}" for key in ("median", "mape", "p90", "max", "bias"))
        table.add_row(name, str(row["n"]), *figures)
    return table


def _show_rest(console: Console, name: str, values: Mapping[str, Any]) -> None:
    interval, limit, ranking = (values[key] for key in ("step_time_interval", "memory_limit", "ranking"))
    said = []
    if interval["coverage"] is not None:
        said.append(f"80 % interval holds {interval['coverage']:.0%} (± {interval['half_width']:.0%})")
    if limit and limit["balanced_accuracy"] is not None:
        said.append(f"fits or not: balanced accuracy {limit['balanced_accuracy']:.1%}")
    if ranking:
        said.append(
            f"ranking of {ranking['groups']} groups: regret mean {ranking['mean_regret']:.1%} max "
            f"{ranking['max_regret']:.1%}, Kendall {ranking['kendall_tau']:.2f}"
        )
    if said:
        console.print(Text(f"  {name}: {'; '.join(said)}"))
