"""What ``compile`` wrote and what the backends' own code said of it, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from meshwright.cost import Cost, cost
from meshwright.cost.fitting import fit_words, fits
from meshwright.cost.memory import GIB
from meshwright.jobs.run_folder import Compiled
from meshwright.layout.plan import Plan
from meshwright.report.checkpoints import show_room
from meshwright.report.terminal import terminal

if TYPE_CHECKING:
    from meshwright.verify.verdict import Verdict

__all__ = ["show", "show_verdicts"]


def show(plan: Plan, compiled: Compiled, point: str = "", console: Console | None = None) -> None:
    """Print the folder, its files, the plan's warnings, and one line for each check; of a sweep, the ``point``."""
    console = console or terminal()
    gpus = f"{plan.grid.world:,} GPUs"
    console.print(Text(str(compiled.folder), style="bold"), *map(Text, filter(None, (gpus, point))), sep="  ")
    for name in compiled.files:
        console.print(Text(f"  {name}", style="dim"))
    console.print(_cost(cost(plan)))
    saved = show_room(plan, compiled.folder)
    if saved is not None:
        console.print(saved)
    for warning in plan.warnings:
        console.print(Text(f"  warning: {warning}", style="yellow"))
    show_verdicts(compiled.verdicts, console)


def _cost(costs: Cost) -> Text:
    """Memory and step in a line; in colour where the memory may not do."""
    style = {"likely": "dim", "about even": "yellow", "unlikely": "red"}[fits(costs.fit_probability)]
    words = fit_words(costs.fit_probability)
    memory = f"{costs.peak_memory / GIB:.1f} of {costs.memory_limit / GIB:.1f} usable GiB, to fit: {words}"
    return Text(f"  predicted: {memory}; {costs.step_time:.3g} s a step", style=style)


def show_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """One line for each check, and what stood in for a GPU."""
    for verdict in verdicts:
        versions = ", ".join(f"{name} {version}" for name, version in verdict.versions.items())
        console.print(Text(f"  {verdict.backend}: ", style="bold"), Text(versions, style="dim"), sep="")
        for check in verdict.checks:
            mark, style = ("passed", "green") if check.passed else ("FAILED", "red")
            console.print(Text(f"    {check.name:<12} {mark}", style=style), Text(f"  {check.details}"), sep="")
            for substitution in check.substitutions:
                console.print(Text(f"      without a GPU: {substitution}", style="dim"))
        if verdict.needs:
            console.print(Text(f"    on the nodes it needs: {', '.join(verdict.needs)}", style="dim"))
