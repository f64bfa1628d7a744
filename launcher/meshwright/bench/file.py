"""A measured machine as an option of the group ``cluster``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from meshwright.bench.constants import Machine
from meshwright.spec import Efficiency

__all__ = ["text"]


def text(name: str, base: str, found: Machine) -> str:
    """The file of the cluster ``name``, which is ``base`` but for what was measured."""
    head = [f"# {base}, measured: {found.efficiency.source}.", "defaults:", f"  - {base}", "  - _self_", ""]
    return "\n".join([*head, "# The cluster's name.", f"name: {name}", *_peaks(found), *_efficiency(found)]) + "\n"


def _peaks(found: Machine) -> Iterator[str]:
    """Peaks that the machine beats, group by group."""
    groups: dict[str, dict[str, float]] = {}
    for path, value in found.peaks.items():
        group, _, key = path.partition(".")
        groups.setdefault(group, {})[key] = value
    for group, values in groups.items():
        yield f"# {group}: the machine is faster than its file says."
        yield f"{group}:"
        for key, value in values.items():
            yield "  # Measured, as nine tenths of this."
            yield f"  {key}: {value:.4g}"


def _efficiency(found: Machine) -> Iterator[str]:
    yield "# Constants of the time model; docs/cost.md says what each one means."
    yield "efficiency:"
    for field in fields(Efficiency):
        value = getattr(found.efficiency, field.name)
        yield f"  # {field.name}."
        yield f"  {field.name}: {value:.4g}" if isinstance(value, float) else f'  {field.name}: "{value}"'
