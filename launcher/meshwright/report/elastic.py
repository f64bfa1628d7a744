"""How a run goes on with other nodes, for people and for machines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from meshwright.report.terminal import terminal
from meshwright.search.candidate import changed, differences, layout_words
from meshwright.search.checkpoint_fate import position
from meshwright.search.elastic import Continuation
from meshwright.search.frontier import row
from meshwright.spec import Spec
from meshwright.train.stages import saved_step

__all__ = ["document", "show"]


def show(spec: Spec, folder: Path, healthy: int, found: Sequence[Continuation], console: Console | None = None) -> None:
    """Print each continuation with what it changes, how the checkpoint goes over, and the words that compile it."""
    console = console or terminal()
    console.print(
        Text(spec.name, style="bold"), Text(f"  from {spec.cluster.nodes} nodes to {healthy} healthy ones"), sep=""
    )
    if not found:
        console.print(Text("  no valid layout fits"))
    for one in found:
        console.print(Text(f"  {_headline(one)}", style="bold"))
        console.print(Text(f"    {layout_words(one.candidate)}"))
        changes = ", ".join(f"{name} {old}→{new}" for name, old, new in differences(spec, one.candidate.spec))
        console.print(Text(f"    changes: {changes}"))
        for line in transition(spec, folder, one):
            console.print(Text(f"    {line}"))
        console.print(Text(f"    {shlex.join(overrides(spec, one))}", style="dim"))


def document(spec: Spec, folder: Path, healthy: int, found: Sequence[Continuation]) -> dict[str, Any]:
    """The same for machines."""
    return {
        "name": spec.name,
        "nodes": spec.cluster.nodes,
        "healthy": healthy,
        "continuations": [
            {
                "nodes": one.nodes,
                "idle": one.idle,
                "batch_change": one.batch_change,
                "overrides": overrides(spec, one),
                "transition": list(transition(spec, folder, one)),
                "carried": not one.carried.problems,
                **row(one.candidate),
            }
            for one in found
        ],
    }


def transition(spec: Spec, folder: Path, one: Continuation) -> Iterator[str]:
    """What goes over from the last checkpoint of ``folder``, and what does not."""
    checkpoints = folder.absolute() / spec.training.logging.folder
    if one.carried.problems:
        yield "its checkpoints cannot be read under this layout, the run would begin anew:"
        yield from (f"  {problem}" for problem in one.carried.problems)
        return
    yield from position(spec, one.candidate.spec, checkpoints, saved_step(checkpoints))
    yield from one.carried.lines


def overrides(spec: Spec, one: Continuation) -> list[str]:
    """The layout as words of the command line, to stand behind those that described the run."""
    return [f"{path}={_word(value)}" for path, value in changed(spec, one.candidate.spec).items()]


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _headline(one: Continuation) -> str:
    batch = "the same global batch" if one.batch_change == 0 else f"a global batch {one.batch_change:+.1%}"
    c = one.candidate
    idle = f", {one.idle} idle" if one.idle else ""
    total = c.tokens_per_gpu * c.gpus
    return f"{batch} on {one.nodes} nodes{idle}: {c.step_time:.3f} s a step, {total:,.0f} tokens/s"
