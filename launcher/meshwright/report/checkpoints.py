"""Checkpoints for people: their size, how many are kept, how often to save."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from meshwright.cost.checkpoints import Checkpoints, advised_interval, checkpoints
from meshwright.layout.plan import Plan
from meshwright.report.terminal import terminal

__all__ = ["show", "show_room"]


def show(plan: Plan, step_time: float) -> None:
    """Print one stage's, nothing where it writes none; advice where the cluster states how often nodes fail."""
    console, found = terminal(), checkpoints(plan)
    if found is None:
        return
    console.print(Text(f"  {'saves':<10} ", style="dim"), Text(", ".join(_words(found))), sep="")
    advised = advised_interval(plan, step_time)
    if advised is not None:
        text = f"training.logging.save_interval: {advised:,} steps lose the least to failures (Young, Daly), at "
        stated = f"{plan.spec.cluster.node_mtbf_hours:g} hours between failures of a node"
        console.print(Text(f"  {text}{stated}", style="yellow"))


def _words(found: Checkpoints) -> Iterator[str]:
    yield f"{found.each_gib:,.1f} GiB a checkpoint"
    if found.kept is not None:
        yield f"{found.kept:,} kept"
        yield f"{found.all_gib:,.1f} GiB in all"


def show_room(plan: Plan, folder: Path) -> Text | None:
    """What the checkpoints take of what is free where they will lie, as far as this machine knows."""
    from meshwright.jobs.room import room  # which a plan does without

    found = room(plan, folder)
    if found is None:
        return None
    free = f"{found.free_gib:,.1f} GiB are free in {found.disk} on this machine"
    words = f"  checkpoints: {', '.join(_words(found.asked))}; {free}"
    return Text(words, style="yellow" if found.free_gib < found.wanted_gib else "dim")
