"""How a run goes on with other nodes, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from meshwright.report.search import layout_words
from meshwright.search.candidate import differences
from meshwright.search.elastic import Continuation
from meshwright.search.frontier import row
from meshwright.spec import Spec

__all__ = ["document", "show"]


def show(spec: Spec, healthy: int, found: Sequence[Continuation], console: Console | None = None) -> None:
    """Print each continuation with what it changes and the words that compile it."""
    console = console or Console(highlight=False, soft_wrap=True)
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
        console.print(Text(f"    {' '.join(overrides(one))}", style="dim"))


def document(spec: Spec, healthy: int, found: Sequence[Continuation]) -> dict[str, Any]:
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
                "overrides": overrides(one),
                **row(one.candidate),
            }
            for one in found
        ],
    }


def overrides(one: Continuation) -> list[str]:
    """The layout as words of the command line."""
    layout = row(one.candidate)["layout"]
    training = one.candidate.spec.training
    values = {"cluster.nodes": one.nodes, "cluster.gpus": one.candidate.gpus, **layout}
    values["training.global_batch"] = training.global_batch
    return [f"{path}={str(value).lower() if isinstance(value, bool) else value}" for path, value in values.items()]


def _headline(one: Continuation) -> str:
    batch = "the same global batch" if one.batch_change == 0 else f"a global batch {one.batch_change:+.1%}"
    c = one.candidate
    idle = f", {one.idle} idle" if one.idle else ""
    total = c.tokens_per_gpu * c.gpus
    return f"{batch} on {one.nodes} nodes{idle}: {c.step_time:.3f} s a step, {total:,.0f} tokens/s"
