"""What a launch does and did, for people and for machines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from meshwright.jobs.launch import Launched
from meshwright.jobs.transition import Chain
from meshwright.report.terminal import terminal

__all__ = ["document", "show_chain", "show_launched"]


def show_chain(links: Chain, console: Console | None = None) -> None:
    """Print how each stage takes over from the one before it."""
    console = console or terminal()
    for link in links.transitions:
        console.print(Text(f"{link.before} -> {link.after}", style="bold"))
        for line in link.lines:
            console.print(Text(f"  {line}"))
    for line in links.left_out:
        console.print(Text(line, style="yellow"))


def show_launched(launched: Sequence[Launched], points: Mapping[Path, str], console: Console | None = None) -> None:
    """Print each command, an array's once, and what came of it; ``points`` are a sweep's, by folder."""
    console = console or terminal()
    for (within, command), of_command in groupby(launched, key=lambda one: (one.within or one.folder, one.command)):
        console.print(Text(f"{within}: {shlex.join(command) or 'nothing to start'}"))
        _show_each(list(of_command), points, console)


def _show_each(launched: Sequence[Launched], points: Mapping[Path, str], console: Console) -> None:
    for task, one in enumerate(launched):
        place = f"  task {task}: {one.folder}" if one.within else ""
        named = "  ".join(filter(None, (place, points.get(one.folder))))
        if named:
            console.print(Text(named if one.within else f"  {named}"))
        if one.job:
            console.print(Text(f"  job {one.job}; meshwright status {shlex.quote(str(one.folder))}", style="green"))
        if one.said:
            console.print(Text(f"  {one.said}", style="red" if one.code else "green"))
        if one.code and not one.said:
            console.print(Text(f"  ended with code {one.code}", style="red"))


def document(
    name: str, chains: Sequence[Chain], launched: Sequence[Launched], points: Mapping[Path, str]
) -> dict[str, Any]:
    """The machine-readable form of a run, or of all points of a sweep."""
    transitions = [link for links in chains for link in links.transitions]
    return {
        "name": name,
        "transitions": [{"before": t.before, "after": t.after, "lines": list(t.lines)} for t in transitions],
        "left_out": list(dict.fromkeys(line for links in chains for line in links.left_out)),
        "launched": [_launched(one, points.get(one.folder)) for one in launched],
    }


def _launched(one: Launched, point: str | None) -> dict[str, Any]:
    within = None if one.within is None else str(one.within)
    paths = {"folder": str(one.folder), "command": list(one.command), "within": within}
    return {**asdict(one), **paths, **({"point": point} if point else {})}
