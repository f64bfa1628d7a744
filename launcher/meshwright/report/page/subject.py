"""What a page shows of one plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, field
from functools import cached_property
from typing import Any

from meshwright.cost import Cost, cost
from meshwright.cost.duration import Duration, duration
from meshwright.cost.summary import plan_summary
from meshwright.cost.timeline import Timeline, timeline
from meshwright.imports.found import Imported
from meshwright.jobs.status import Status
from meshwright.layout.plan import Plan
from meshwright.library.recipe import Provenance, Recipe, leaves, provenance_of
from meshwright.report.page.words import literal
from meshwright.spec.frozen import dataclass

__all__ = ["Measured", "Subject", "Value", "values"]


@dataclass(frozen=True)
class Value:
    """One value of a plan.

    ``status``: a recipe's word, ``set here``, ``chosen`` with its group, ``imported`` from another program's file, or
    ``default``.
    """

    path: str
    value: str
    status: str
    origin: str


@dataclass(frozen=True)
class Measured:
    """What a run folder has to say: its status, and its metrics in order of their steps."""

    status: Status
    lines: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Subject:
    """A plan, what it costs, where its values come from, the files it becomes, how it ran, and what was imported."""

    plan: Plan
    values: tuple[Value, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # by name in the run folder
    measured: Measured | None = None
    imported: Imported | None = None  # where files of another program describe it
    label: str | None = None  # where several subjects share a name

    @property
    def title(self) -> str:
        """What tells it from the others."""
        return self.label or " · ".join(self.plan.spec.names)

    @cached_property
    def cost(self) -> Cost:
        """Of one step."""
        return cost(self.plan)

    @cached_property
    def duration(self) -> Duration | None:
        """Of the whole stage."""
        return duration(self.plan, self.cost)

    @cached_property
    def timeline(self) -> Timeline:
        """The step, without the micro-batches that repeat those before them."""
        return timeline(self.plan, self.cost.step, folded=True)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As in ``output=json``: every number of the page that has a key is found in here by it."""
        return plan_summary(self.plan, self.cost)


def values(
    plan: Plan, recipe: Recipe | None, words: Sequence[str], imported: Mapping[str, str] | None = None
) -> tuple[Value, ...]:
    """Every value that is set, those of the recipe, of files and of the command line first.

    ``imported``: by path, the file and line of another program that says it.
    """
    spec = plan.spec
    records = (
        []
        if recipe is None
        else [r for r in recipe.records if r.stage in (None, spec.stage) and r.variant in (None, spec.variant)]
    )
    sources = {path: entry for record in records for path, entry in record.provenance.items()}
    stated = {path for record in records for path in record.values}
    here = {word.lstrip("+~").partition("=")[0]: word for word in words}
    plain = {name: part for name, part in asdict(spec).items() if isinstance(part, Mapping)}
    kept = ((path, value) for path, value in leaves(plain) if value is not None)
    found = [
        _imported(path, value, imported or {}, here) or _value(path, value, sources, stated, here)
        for path, value in kept
    ]
    return tuple(sorted(found, key=lambda one: _ORDER.index(one.status)))


_ORDER = ("set here", "chosen", "imported", "published", "derived", "inferred", "ours", "default")


def _imported(path: str, value: object, imported: Mapping[str, str], here: Mapping[str, str]) -> Value | None:
    if path not in imported or path in here or path.split(".")[0] in here:
        return None
    return Value(path, literal(value), "imported", imported[path])


def _value(
    path: str, value: object, sources: Mapping[str, Provenance], stated: set[str], here: Mapping[str, str]
) -> Value:
    entry, group = provenance_of(path, sources), path.split(".")[0]
    if path in here:
        return Value(path, literal(value), "set here", here[path])
    if group in here:
        return Value(path, literal(value), "chosen", here[group])
    if entry is None or not _covers(path, stated):
        return Value(path, literal(value), "default", "conf/")
    return Value(path, literal(value), entry.status, "; ".join(_origin(entry)))


def _covers(path: str, stated: set[str]) -> bool:
    """Whether a recipe states the value, or the group or mapping it lies in."""
    return any(path == one or path.startswith(f"{one}.") for one in stated)


def _origin(entry: Provenance) -> Iterator[str]:
    if entry.source:
        yield f"{entry.source}, {entry.where}" if entry.where else entry.source
    if entry.why:
        yield entry.why
