"""The status of runs, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from meshwright.jobs.predicted import GIB
from meshwright.jobs.status import Status
from meshwright.report.terminal import terminal

__all__ = ["document", "show"]


def show(statuses: Sequence[Status], console: Console | None = None) -> None:
    """Print each run folder's status."""
    console = console or terminal()
    for one in statuses:
        parts = [f", {kind} {name}" for kind in ("variant", "stage") if (name := getattr(one, kind))]
        name = "".join([one.name, *parts])
        console.print(Text(f"{name}: ", style="bold"), Text(one.state), sep="")
        for problem in one.problems:
            console.print(Text(f"  cannot read {problem}; {_mend(problem)}", style="red"))
        for warning in one.warnings:
            console.print(Text(f"  {warning}", style="yellow"))
        for word, value in _lines(one):
            console.print(Text(f"  {word:<12}", style="dim"), Text(value), sep="")
        for surprise in one.surprises:
            console.print(Text(f"  not as predicted: {surprise}", style="yellow"))


_GENERATED = ("plan.json", "config.yaml", "verdicts.json")


def _mend(problem: str) -> str:
    """What can be done about a file: what compile writes it writes again, what the run wrote it does not."""
    return "compile it again, or restore it" if problem.startswith(_GENERATED) else "restore it, or remove it"


def _saved(one: Status) -> str:
    if one.checkpoint is not None:
        return f"step {one.checkpoint:,}"
    return "not known" if any("latest" in problem.partition(":")[0] for problem in one.problems) else "none yet"


def _lines(one: Status) -> Iterator[tuple[str, str]]:
    yield "folder", str(one.folder)
    of = "" if one.steps is None else f" of {one.steps:,} ({one.step / max(1, one.steps):.1%})"
    yield "step", f"{one.step:,}{of}"
    if one.loss is not None:
        norm = "" if one.grad_norm is None else f", gradient norm {one.grad_norm:.3g}"
        rate = "" if one.learning_rate is None else f", learning rate {one.learning_rate:.3g}"
        yield "loss", f"{one.loss:.4f}{norm}{rate}"
    if one.valid_loss is not None:
        yield "validation", f"{one.valid_loss:.4f} at step {one.valid_step:,}"
    if one.tokens_per_s is not None:
        expected = one.predicted.step_time_s
        predicted = "" if expected is None else f" (predicted {expected:.3g})"
        yield "rate", f"{one.tokens_per_s:,.0f} tokens/s, {one.step_time_s:.3g} s a step{predicted}"
    if one.allocated is not None:
        yield "memory", _memory(one)
    mfu = _mfu(one)
    if mfu:
        yield "MFU", mfu
    yield "restarts", f"{max(0, one.starts - 1)}, {one.failures} after failures"
    yield "checkpoint", _saved(one)
    if one.last_event:
        yield "last event", one.last_event


def _memory(one: Status) -> str:
    parts = (("allocated", one.allocated), ("reserved", one.reserved), ("predicted", one.predicted.peak_memory))
    return "peak " + ", ".join(f"{value / GIB:.1f} GiB {name}" for name, value in parts if value is not None)


def _mfu(one: Status) -> str:
    parts = (("measured", one.mfu), ("predicted", one.predicted_mfu), ("published", one.published_mfu))
    return ", ".join(f"{name} {value:.1%}" for name, value in parts if value is not None)


def document(statuses: Sequence[Status]) -> dict[str, Any]:
    """The machine-readable form."""
    return {"runs": [{**asdict(one), "folder": str(one.folder)} for one in statuses]}
