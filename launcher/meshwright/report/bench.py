"""What a machine reached of its roofs, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from meshwright.bench.constants import Machine
from meshwright.bench.measurement import Measurement
from meshwright.bench.modules import Row

__all__ = ["document", "layer_document", "show", "show_layer"]

WIDTH = 120  # also where the output is no terminal


def show(found: Sequence[Measurement], machine: Machine, console: Console | None = None) -> None:
    """A line a measurement, then the constants."""
    console = console or Console(highlight=False, width=WIDTH)
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("what", "size", "time", "reached", "roof", "part"):
        table.add_column(name, justify="left" if name in ("what", "size") else "right")
    for m in found:
        table.add_row(m.name, m.size, _time(m.seconds), *_against(m))
    console.print(table)
    constants = ", ".join(f"{k} {v:.3g}" for k, v in asdict(machine.efficiency).items() if isinstance(v, float))
    console.print(f"constants: {constants}", soft_wrap=True)
    for path, value in machine.peaks.items():
        console.print(f"{path}: this machine is faster than its file says; {value:.4g} is written", soft_wrap=True)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def _against(m: Measurement) -> tuple[str, str, str]:
    """What was reached, of which roof, and which part of it."""
    if m.part is None:
        return "", "", ""
    unit, scale = ("TFLOP/s", 1e12) if m.kind in ("product", "attention") else ("GB/s", 1e9)
    return f"{m.reached / scale:.3g} {unit}", f"{m.roof.per_second / scale:.4g} {m.roof.part}", f"{m.part:.1%}"


def document(found: Sequence[Measurement], machine: Machine) -> dict[str, Any]:
    """The machine-readable form."""
    rows = [{**asdict(m), "reached": m.reached, "part": m.part} for m in found]
    return {"measurements": rows, "efficiency": asdict(machine.efficiency), "peaks": dict(machine.peaks)}


def show_layer(rows: Sequence[Row], console: Console | None = None) -> None:
    """Measured beside predicted, a line a module."""
    console = console or Console(highlight=False, width=WIDTH)
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("module", "operations", "forward", "predicted", "backward", "predicted", "error"):
        table.add_column(name, justify="left" if name in ("module", "operations") else "right")
    for row in rows:
        forward, backward = (
            (_time(row.measured[i]) if row.measured[i] else "-", _time(row.predicted[i])) for i in (0, 1)
        )
        error = f"{sum(row.predicted) / sum(row.measured) - 1:+.0%}"
        table.add_row(row.name, ", ".join(row.operations), *forward, *backward, error)
    console.print(table)


def layer_document(rows: Sequence[Row]) -> dict[str, Any]:
    """The machine-readable form; (forward, backward) in seconds."""
    return {"modules": [{k: v for k, v in asdict(row).items() if k != "module"} for row in rows]}
