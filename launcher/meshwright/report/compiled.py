"""What ``compile`` wrote and what the backends' own code said of it, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from meshwright.jobs.run_folder import Compiled
from meshwright.layout.plan import Plan

if TYPE_CHECKING:
    from meshwright.verify.verdict import Verdict

__all__ = ["show", "show_verdicts"]


def show(plan: Plan, compiled: Compiled, console: Console | None = None) -> None:
    """Print the folder, its files, the plan's warnings, and one line for each check."""
    console = console or Console(highlight=False, soft_wrap=True)
    console.print(Text(str(compiled.folder), style="bold"), Text(f"  {plan.grid.world:,} GPUs"), sep="")
    for name in compiled.files:
        console.print(Text(f"  {name}", style="dim"))
    for warning in plan.warnings:
        console.print(Text(f"  warning: {warning}", style="yellow"))
    show_verdicts(compiled.verdicts, console)


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
