"""How long a run takes, for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from meshwright.cost.duration import Duration
from meshwright.report.terminal import terminal

__all__ = ["show_duration", "show_total"]


def show_duration(length: Duration | None) -> None:
    """Print one stage's, nothing where its length is not stated."""
    _print("length", length)


def show_total(length: Duration | None) -> None:
    """Print that of all stages together."""
    _print("all stages", length)


def _print(name: str, length: Duration | None) -> None:
    if length is not None:
        console = terminal()
        console.print(Text(f"  {name:<10} ", style="dim"), Text(", ".join(_words(length))), sep="")


def _words(length: Duration) -> Iterator[str]:
    yield (
        f"{length.tokens:,} tokens in {length.days:,.1f} days"
        if length.days >= 1
        else (f"{length.tokens:,} tokens in {length.seconds / 3600:,.2f} hours")
    )
    if length.validation_seconds:
        yield f"{length.validation_seconds / length.seconds:.1%} of it validation"
    yield f"{length.gpu_hours:,.0f} GPU hours"
    if length.price is not None:
        yield f"{length.price:,.0f} at cluster.price_per_gpu_hour"
    if length.slices is not None:
        yield f"{length.slices:,} job{'s' * (length.slices > 1)} of launch.slurm.time"
