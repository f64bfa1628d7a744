"""Tables of layouts: columns of equal length, made by joining axes and striking out what a rule forbids.

A rule is judged as soon as the columns it reads are there, so a table never holds a layout longer than it must, and
nothing is struck out that ``resolve`` would accept: the rules are the same, and a rule's answer does not depend on
columns it does not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshwright.rules import POSITIVE, Layout, Rule, rules_of
from meshwright.search.proposals import Columns, axes
from meshwright.search.space import Variant
from meshwright.spec import Spec

__all__ = ["NEUTRAL", "Exclusion", "Layouts", "as_layout", "enumerate_layouts", "reads"]

ROWS = 1 << 16
"""Layouts of one chunk: arrays that stay in a core's cache are costed fastest."""

NEUTRAL = {
    **dict.fromkeys(("tp", "pp", "vpp", "cp", "ep", "etp", "dp", "micro_batch"), 1),
    **dict.fromkeys(("sp", "zero", "first", "last", "embedding", "loss"), 0),
}
"""The columns of a layout without any parallelism."""


@dataclass
class Exclusion:
    """Layouts that ``rule`` was the first to forbid, and one of them."""

    rule: Rule
    points: int
    example: dict[str, int]


@dataclass(frozen=True)
class Layouts:
    """All layouts of one Variant: ``points`` proposed, those excluded by rule (filled as chunks are drawn), chunks."""

    variant: Variant
    points: int
    excluded: dict[str, Exclusion]
    chunks: Iterator[Columns]


def enumerate_layouts(variant: Variant) -> Layouts:
    """Every layout of ``variant`` that breaks no rule of its backend, in chunks of at most ``ROWS`` rows or so."""
    spec = variant.spec
    proposed = list(axes(spec, variant.stated))
    pending = _by_reads(spec)
    points = prod(len(next(iter(axis.values()))) for axis in proposed)
    excluded: dict[str, Exclusion] = {}
    return Layouts(variant, points, excluded, _expand(spec, proposed, pending, variant.stated, excluded))


def as_layout(spec: Spec, columns: Mapping[str, Any]) -> Layout:
    """The Layout with these columns; those not given are neutral."""
    assert spec.training.global_batch is not None
    return Layout(
        **{**NEUTRAL, **columns},
        world=spec.cluster.gpus,
        global_batch=spec.training.global_batch,
        recompute=("none", "selective", "full").index(spec.parallelism.recompute),
        spec=spec,
    )


def reads(rule: Rule, spec: Spec) -> frozenset[str]:
    """The columns that ``rule`` looks at, found by watching it judge two layouts at once."""
    watched: Any = _Watched(as_layout(spec, _TWO))
    rule.holds(watched)
    return frozenset(watched.seen)


_TWO = {name: np.array([value, value]) for name, value in NEUTRAL.items()}


class _Watched:
    """A layout that notes which of its columns are looked at, also through what follows from them."""

    def __init__(self, layout: Layout) -> None:
        self.seen: set[str] = set()
        self.layout = layout

    def __getattr__(self, name: str) -> Any:
        own = getattr(Layout, name, None)
        if isinstance(own, property) and own.fget is not None:
            return own.fget(self)
        if isinstance(own, cached_property):
            return own.func(self)
        self.seen.update({name} & NEUTRAL.keys())
        return getattr(self.layout, name)


def _by_reads(spec: Spec) -> list[tuple[Rule, frozenset[str]]]:
    """Every rule of the backend with the columns it reads, in the order in which ``resolve`` judges them."""
    return [(rule, reads(rule, spec)) for rule in (*POSITIVE, *rules_of(spec.backend.name))]


def _expand(
    spec: Spec,
    proposed: Sequence[Columns],
    rules: Sequence[tuple[Rule, frozenset[str]]],
    stated: Mapping[str, tuple[int, ...]],
    excluded: dict[str, Exclusion],
) -> Iterator[Columns]:
    """Join axis by axis; a table that grows beyond ``ROWS`` is cut, and its parts are expanded one after another."""
    steps = list(_steps(proposed, rules))

    def grow(table: Columns, step: int) -> Iterator[Columns]:
        if step == len(steps):
            if _rows(table):
                yield table
            return
        axis, due, weight = steps[step]
        size = _rows(axis)
        for part in _cut(table, max(1, ROWS // size)):
            joined = _derive(spec, _join(part, axis), stated)
            yield from grow(_strike(spec, joined, due, weight, excluded), step + 1)

    yield from _regroup(grow({}, 0))


def _steps(
    proposed: Sequence[Columns], rules: Sequence[tuple[Rule, frozenset[str]]]
) -> Iterator[tuple[Columns, list[Rule], int]]:
    """(axis, the rules that can be judged once it is joined, how many layouts stand behind one row then)."""
    there: set[str] = set()
    pending = list(rules)
    for i, axis in enumerate(proposed):
        there |= axis.keys()
        if {"tp", "cp", "pp"} <= there:
            there.add("dp")
        due = [rule for rule, needed in pending if needed <= there]
        pending = [(rule, needed) for rule, needed in pending if not needed <= there]
        yield axis, due, prod(_rows(later) for later in proposed[i + 1 :])
    assert not pending, [rule.id for rule, _ in pending]


def _derive(spec: Spec, table: Columns, stated: Mapping[str, tuple[int, ...]]) -> Columns:
    """Add dp once its factors are there; a stated dp is kept to."""
    if not {"tp", "cp", "pp"} <= table.keys() or "dp" in table:
        return table
    world = spec.cluster.gpus
    assert world is not None
    factors = table["tp"] * spec.parallelism.gtp * table["cp"] * table["pp"]
    table = {**table, "dp": np.maximum(1, world // factors)}
    return _select(table, np.isin(table["dp"], stated["dp"])) if "dp" in stated else table


def _strike(spec: Spec, table: Columns, due: Iterable[Rule], weight: int, excluded: dict[str, Exclusion]) -> Columns:
    """Strike out what each rule forbids, rule by rule: a later one never sees what an earlier one has struck."""
    for rule in due:
        rows = _rows(table)
        if rows == 0:
            return table
        holds = np.broadcast_to(np.asarray(rule.holds(as_layout(spec, table)), dtype=bool), rows)
        if holds.all():
            continue
        first = int(np.argmin(holds))
        entry = excluded.setdefault(rule.id, Exclusion(rule, 0, {k: int(v[first]) for k, v in table.items()}))
        entry.points += int(rows - np.count_nonzero(holds)) * weight
        table = _select(table, holds)
    return table


def _join(table: Columns, axis: Columns) -> Columns:
    """Every row of ``table`` with every row of ``axis``."""
    rows, size = _rows(table) if table else 1, _rows(axis)
    return {
        **{name: np.repeat(column, size) for name, column in table.items()},
        **{name: np.tile(column, rows) for name, column in axis.items()},
    }


def _regroup(parts: Iterator[Columns]) -> Iterator[Columns]:
    """Small tables together: many short arrays cost more than few long ones."""
    waiting: list[Columns] = []
    rows = 0
    for part in parts:
        waiting.append(part)
        rows += _rows(part)
        if rows >= ROWS:
            yield _concatenate(waiting)
            waiting, rows = [], 0
    if waiting:
        yield _concatenate(waiting)


def _concatenate(tables: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _cut(table: Columns, rows: int) -> Iterator[Columns]:
    if not table:
        yield table
        return
    for start in range(0, _rows(table), rows):
        yield {name: column[start : start + rows] for name, column in table.items()}


def _select(table: Columns, chosen: NDArray[Any]) -> Columns:
    rows = np.flatnonzero(chosen)
    return {name: column.take(rows) for name, column in table.items()}


def _rows(table: Columns) -> int:
    return len(next(iter(table.values()))) if table else 0


assert set(NEUTRAL) | {"world", "global_batch", "recompute", "spec"} == {f.name for f in fields(Layout)}
