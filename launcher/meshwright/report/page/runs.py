"""A chain of runs as a small page without scripts, which asks for itself again while it is watched."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from meshwright.jobs.outlook import Outlook, seconds_left
from meshwright.report.live import span
from meshwright.report.page.html import asset, templates

__all__ = ["runs_html"]

_WIDE, _HIGH = 600, 120  # of a curve, in its own units


def runs_html(runs: Sequence[Outlook], again: int | None = None) -> str:
    """The page; with ``again`` a browser reads the file anew after so many seconds."""
    left = seconds_left(runs)
    return (
        templates()
        .get_template("runs.html")
        .render(
            runs=runs,
            curves=[_curve(one.losses) for one in runs],
            left=None if left is None else span(left),
            again=again,
            style=Markup(asset("page.css")),
            span=span,
        )
    )


def _curve(losses: Sequence[float]) -> str:
    """The points of a polyline over at most as many steps as it is wide."""
    kept = [loss for loss in losses[:: max(1, len(losses) // _WIDE)] if abs(loss) < float("inf")]
    if len(kept) < 2:
        return ""
    low, size = min(kept), max(kept) - min(kept) or 1.0
    return " ".join(
        f"{_WIDE * i / (len(kept) - 1):.1f},{_HIGH * (1 - (loss - low) / size):.1f}" for i, loss in enumerate(kept)
    )
