"""A rehearsal for people: the loss curves side by side, and how far apart they ever are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshwright.rehearse.result import COMPARED, Curve, Rehearsal
from meshwright.report.terminal import terminal

__all__ = ["document", "show", "sparkline"]

ROWS = 10  # steps shown of each curve
BARS = "▁▂▃▄▅▆▇█"


def show(rehearsal: Rehearsal, console: Console | None = None) -> None:
    """Print the curves, their differences and the outcome."""
    console = console or terminal()
    curves = (rehearsal.reference, *rehearsal.miniatures)
    console.print(_losses(curves))
    for curve, difference in zip(curves, (None, *rehearsal.differences), strict=True):
        console.print(Text(_summary(curve, difference, rehearsal.tolerance)))
    for text in rehearsal.substitutions:
        console.print(Text(f"  in the miniature: {text}", style="dim"))
    console.print(*_outcome(rehearsal), sep="\n")


def document(rehearsal: Rehearsal) -> dict[str, Any]:
    """The machine-readable form."""
    computed = {
        "differences": rehearsal.differences,
        "fallen": rehearsal.fallen,
        "passed": rehearsal.passed,
        "problems": rehearsal.problems,
    }
    return {**asdict(rehearsal), **computed}


def sparkline(values: Sequence[float]) -> str:
    """``values`` as a row of bars, the lowest an eighth high."""
    low, high = min(values), max(values)
    return "".join(BARS[round((value - low) / ((high - low) or 1) * (len(BARS) - 1))] for value in values)


def _losses(curves: Sequence[Curve]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("step", justify="right")
    for curve in curves:
        table.add_column(curve.layout, justify="right")
    for step in _shown(min(len(curve.losses) for curve in curves)):
        table.add_row(str(step + 1), *(f"{curve.losses[step]:.6f}" for curve in curves))
    return table


def _shown(steps: int) -> list[int]:
    """The first step, the last, and some between."""
    return sorted({round(i * (steps - 1) / (ROWS - 1)) for i in range(ROWS)}) if steps else []


def _summary(curve: Curve, difference: float | None, tolerance: float) -> str:
    ranks = f"{curve.ranks} process{'es' * (curve.ranks > 1)}"
    of = f" of the first {COMPARED} steps" if len(curve.losses) > COMPARED else ""
    apart = "" if difference is None else f", largest difference{of} {difference:.1e} (at most {tolerance:.0e})"
    return f"  {sparkline(curve.losses) if curve.losses else ''}  {curve.layout}: {ranks}, {curve.seconds:.0f} s{apart}"


def _outcome(rehearsal: Rehearsal) -> Iterator[Text]:
    for problem in rehearsal.problems:
        yield Text(f"  FAILED: {problem}", style="red")
    if rehearsal.passed:
        largest = max(rehearsal.differences)
        steps = len(rehearsal.reference.losses)
        text = f"  passed: {steps} steps on real text, the loss fell by {rehearsal.fallen:.2f} nats, "
        yield Text(f"{text}every loss equals one process's to {largest:.1e}", style="green")
