"""A chain of runs while it runs, for a terminal: drawn again and again by ``status --watch``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from meshwright.jobs.outlook import Outlook, seconds_left
from meshwright.jobs.predicted import GIB
from meshwright.jobs.status import Status

__all__ = ["line", "span", "view"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 48  # characters of a line of losses


def view(runs: Sequence[Outlook]) -> RenderableType:
    """A panel a stage, and the time left for all."""
    panels: list[RenderableType] = [_panel(one) for one in runs]
    left = seconds_left(runs)
    if len(runs) > 1 and left is not None:
        panels.append(Text(f"all stages: {span(left)} left", style="bold"))
    return Group(*panels)


def _panel(one: Outlook) -> Panel:
    status = one.status
    name = " / ".join(part for part in (status.name, status.variant, status.stage) if part)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for word, value in _rows(one):
        table.add_row(word, value)
    style = {"done": "green", "not running": "dim"}.get(status.state, "cyan")
    return Panel(table, title=Text(f"{name}: {status.state}"), title_align="left", border_style=style)


def _rows(one: Outlook) -> Iterator[tuple[str, RenderableType]]:
    status = one.status
    if status.steps:
        yield "step", ProgressBar(total=status.steps, completed=status.step, width=_WIDTH)
    yield "", Text(_progress(one))
    if one.losses:
        yield "loss", Text(f"{line(one.losses, _WIDTH)} {one.losses[-1]:.4f}")
    yield from (
        pair for pair in (("rate", _rate(status)), ("MFU", _mfu(status)), ("memory", _memory(status))) if pair[1]
    )
    yield "checkpoint", Text(_checkpoint(one))
    yield "restarts", Text(f"{max(0, status.starts - 1)}, {status.failures} after failures")
    for problem in (*status.surprises, *status.problems):
        yield "!", Text(problem, style="yellow")


def _progress(one: Outlook) -> str:
    of = "" if one.status.steps is None else f" of {one.status.steps:,}"
    left = "" if one.seconds_left is None else f", {span(one.seconds_left)} left"
    return f"{one.status.step:,}{of}{left}"


def _rate(status: Status) -> str:
    if status.tokens_per_s is None or status.step_time_s is None:
        return ""
    expected = status.predicted.step_time_s
    predicted = "" if expected is None else f", predicted {expected:.3g}"
    return f"{status.tokens_per_s:,.0f} tokens/s, {status.step_time_s:.3g} s a step{predicted}"


def _mfu(status: Status) -> str:
    parts = (("measured", status.mfu), ("predicted", status.predicted_mfu), ("published", status.published_mfu))
    return ", ".join(f"{name} {value:.1%}" for name, value in parts if value is not None)


def _memory(status: Status) -> str:
    if status.allocated is None:
        return ""
    expected = status.predicted.peak_memory
    return f"{status.allocated / GIB:.1f} GiB" + ("" if expected is None else f", predicted {expected / GIB:.1f}")


def _checkpoint(one: Outlook) -> str:
    last = "none yet" if one.status.checkpoint is None else f"step {one.status.checkpoint:,}"
    return last if one.next_checkpoint is None else f"{last}, next at step {one.next_checkpoint:,}"


def line(values: Sequence[float], width: int) -> str:
    """The values as blocks, of each stretch the mean; what is no number is a blank."""
    groups = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    means = [sum(group) / len(group) for group in groups if group]
    finite = [mean for mean in means if abs(mean) < float("inf")]
    if not finite:
        return ""
    low, size = min(finite), max(finite) - min(finite) or 1.0
    return "".join(_BLOCKS[round((mean - low) / size * 7)] if mean in finite else " " for mean in means)


def span(seconds: float) -> str:
    """A time to wait, in the two units that matter."""
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days:,} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
