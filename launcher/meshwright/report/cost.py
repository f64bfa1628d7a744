"""A plan's cost for people: where the step's time goes, what fills the memory, what crosses the links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshwright.cost import Cost
from meshwright.cost.fitting import fit_words
from meshwright.cost.memory import GIB, Memory
from meshwright.report.terminal import terminal

__all__ = ["PARTS", "show_cost"]

_BAR = 24
PARTS = {
    "compute": "compute",
    "recompute": "recomputation",
    "tensor": "tensor parallel, exposed",
    "expert": "expert all-to-all, exposed",
    "context": "context parallel, exposed",
    "pipeline": "sends between stages",
    "bubble": "pipeline bubble",
    "data": "gradients and parameters",
    "optimizer": "optimizer",
    "offload": "offload, exposed",
}
"""What a step's time goes to, by the fields of ``Step``."""


def show_cost(cost: Cost, constants: str, console: Console | None = None) -> None:
    """Print ``cost`` to the terminal; ``constants``: where those of the time come from (cluster.efficiency.source)."""
    console = console or terminal()
    for name, value in (*_headlines(cost), *_constants(constants)):
        console.print(Text(f"  {name:<10} ", style="dim"), Text(value), sep="")
    console.print(_bars({PARTS[f.name]: float(getattr(cost.step, f.name)) for f in fields(cost.step)}, "s"))
    fullest = cost.stages[cost.fullest]
    console.print(_bars({f.name: float(getattr(fullest, f.name)) / GIB for f in fields(Memory)}, "GiB"))
    for note in cost.notes:
        console.print(Text(f"  note: {note}", style="yellow"))
    for one in cost.advice:
        console.print(Text(f"  {one.path}: {one.message}", style="yellow"))


def _constants(source: str) -> Iterator[tuple[str, str]]:
    """Where no measurement of this cluster has fitted them, they are somebody else's, or ours."""
    if "inferred" in source or source.startswith("ours"):
        yield "constants", f"{source} (cluster.efficiency)"


def _headlines(cost: Cost) -> Iterator[tuple[str, str]]:
    low, high = cost.interval
    yield "step", f"{_number(cost.step_time)} s (80 %: {_number(low)} to {_number(high)} s)"
    yield (
        "rate",
        f"{cost.tokens_per_second:,.0f} tokens/s, {cost.model_flops / 1e12:.0f} TFLOP/s per GPU, "
        f"MFU {cost.mfu:.1%}, HFU {cost.hfu:.1%} (attention in full, of the bf16 peak)",
    )
    room = (cost.memory_limit - cost.peak_memory) / GIB
    room_words = f"fits with {room:.1f} GiB to spare" if cost.fits else f"{-room:.1f} GiB too much"
    verdict = f"{room_words} (to fit: {fit_words(cost.fit_probability)})"
    where = f" on stage {cost.fullest}" if len(cost.stages) > 1 else ""
    low, high = (one / GIB for one in cost.memory_interval)
    limit = f"of {cost.memory_limit / GIB:.1f} usable"
    yield "memory", f"{cost.peak_memory / GIB:.1f} GiB{where} (80 %: {low:.0f} to {high:.0f}), {limit}: {verdict}"
    yield from _host(cost)
    flows = {f.name: getattr(cost.traffic, f.name) for f in fields(cost.traffic)}
    said = [f"{name} {flow.told}" for name, flow in flows.items() if flow.size]
    yield "traffic", ", ".join(said) or "none"


HOST = {
    "ranks": "ranks",
    "workers": "data workers",
    "saving": "copies while saving",
    "states": "offloaded states",
    "activations": "offloaded activations",
}
"""What a node's memory holds, by the fields of ``Host``."""


def _host(cost: Cost) -> Iterator[tuple[str, str]]:
    """What a node's host and disks hold."""
    of = f" of {cost.host_limit / GIB:,.0f}" if cost.host_limit else ""
    parts = ((name, getattr(cost.host, field) / GIB) for field, name in HOST.items())
    said = ", ".join(f"{name} {size:,.1f}" for name, size in parts if size >= 0.05)
    yield "host", f"{cost.host.memory / GIB:,.1f} GiB{of} a node: {said}; {cost.host.pinned / GIB:,.1f} pinned"
    if cost.host.nvme:
        yield "nvme", f"{cost.host.nvme / GIB:,.1f} GiB a node"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _bars(parts: Mapping[str, float], unit: str) -> Table:
    """One line a part, longest part the full bar; parts under a thousandth are left out."""
    table = Table(box=None, padding=(0, 2), show_header=False)
    total = sum(parts.values())
    largest = max(parts.values())
    for name, value in parts.items():
        if value > total / 1000:
            bar = "█" * max(1, round(_BAR * value / largest))
            table.add_row(name, f"{_number(value)} {unit}", f"{value / total:.1%}", Text(bar, style="cyan"))
    return table
