"""Two runs, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from meshwright.compare.canonical import canonical
from meshwright.compare.emitted import emitted
from meshwright.compare.fields import Difference, differences
from meshwright.compare.measured import measured
from meshwright.compare.numbers import Number, derived, predicted, unequal
from meshwright.cost.summary import plan_summary
from meshwright.resolver import resolve
from meshwright.spec import Spec
from meshwright.spec.effect import Effect
from meshwright.spec.frozen import dataclass

__all__ = ["Comparison", "Pair", "Side", "Stage", "compare"]

Origin = Callable[[str], str | None]
"""From a field's path to where its value comes from; None where nothing says."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run: its Spec, where its values come from, and its run folder where it has one."""

    spec: Spec
    origin: Origin = lambda _: None
    folder: Path | None = None


@dataclass(frozen=True)
class Side:
    """A run as a user named it."""

    name: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Pair:
    """Two stages and in what they differ; ``measured`` is None where one of them is no run folder."""

    a: Stage
    b: Stage
    fields: tuple[Difference, ...]
    derived: tuple[Number, ...]
    emitted: tuple[Number, ...]
    predicted: tuple[Number, ...]
    measured: tuple[Number, ...] | None


@dataclass(frozen=True)
class Comparison:
    """Two runs; a stage that only one of them has is in ``only_a`` or ``only_b``."""

    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    only_a: tuple[Stage, ...]
    only_b: tuple[Stage, ...]

    def count(self, effect: Effect) -> int:
        """Differences of one kind; a stage that is not there is not learned from."""
        alone = len(self.only_a) + len(self.only_b) if effect == "learned" else 0
        return alone + sum(one.effect == effect for pair in self.pairs for one in pair.fields)


def compare(a: Side, b: Side) -> Comparison:
    """Both runs; stages are paired by their names, where no name is on both sides by their order.

    Raises:
        ConfigError: where a stage does not resolve.

    """
    couples = list(_couples(a.stages, b.stages))
    return Comparison(
        a,
        b,
        pairs=tuple(_pair(one, other) for one, other in couples if one and other),
        only_a=tuple(one for one, other in couples if one and not other),
        only_b=tuple(other for one, other in couples if other and not one),
    )


def _couples(a: Sequence[Stage], b: Sequence[Stage]) -> Iterator[tuple[Stage | None, Stage | None]]:
    by_name = {stage.spec.stage: stage for stage in b}
    names = [stage.spec.stage for stage in a]
    if not by_name.keys() & set(names):
        yield from zip_longest(a, b)
        return
    yield from ((stage, by_name.get(stage.spec.stage)) for stage in a)
    yield from ((None, stage) for stage in b if stage.spec.stage not in names)


def _pair(a: Stage, b: Stage) -> Pair:
    specs = [canonical(resolve(stage.spec)) for stage in (a, b)]
    plans = [resolve(spec) for spec in specs]
    summaries = [plan_summary(plan) for plan in plans]
    return Pair(
        a,
        b,
        fields=differences(*specs),
        derived=unequal(*map(derived, summaries)),
        emitted=emitted(*plans),
        predicted=unequal(*map(predicted, summaries)),
        measured=measured(a.folder, b.folder) if a.folder and b.folder else None,
    )
