"""Cost every layout of a Space and keep the best, the frontier, and the best for each value of each axis.

Nothing is pruned but by the rules and by memory: every layout that resolves and fits is timed, so the winner cannot
be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from heapq import nsmallest
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshwright.cost import Estimate, estimate, peak_memory
from meshwright.cost.memory import allocatable
from meshwright.rules import Layout
from meshwright.search.candidate import Candidate
from meshwright.search.objective import LATE, Goal, score
from meshwright.search.proposals import Columns
from meshwright.search.space import Space, Variant, variants
from meshwright.search.table import Exclusion, as_layout, enumerate_layouts
from meshwright.spec import Cluster

__all__ = ["SURVIVORS", "TIE", "Progress", "Ranking", "budget", "candidates", "rank", "undominated"]

TIE = 0.02
"""Scores nearer than this are called a tie. Inferred, ours: no source says how well differences are predicted."""

SURVIVORS = 64
"""Layouts kept to be costed exactly."""

AXES = ("tp", "sp", "pp", "vpp", "cp", "ep", "etp", "zero", "micro_batch", "split", "recompute", "gpus")

Progress = Callable[[int], None]
"""Called with the number of layouts costed since the last call."""

Estimator = Callable[[Layout], Estimate]


@dataclass
class Ranking:
    """The outcome of a search.

    ``points`` were proposed; ``excluded`` of them broke a rule, ``valid`` did not; ``fitting`` of those fit in memory.
    ``best`` ascend by score, at first by the closed form and with ``SURVIVORS`` of them; ``frontier`` is what no
    other layout on as many GPUs beats in step time and peak memory;
    ``choices`` has the best layout for each (axis, value), or the leanest where none fits.
    """

    goal: Goal
    points: int = 0
    valid: int = 0
    fitting: int = 0
    seconds: float = 0.0
    proven: bool = False  # no layout that was not costed exactly can be among the best
    excluded: dict[str, Exclusion] = field(default_factory=dict)
    best: list[Candidate] = field(default_factory=list)
    frontier: list[Candidate] = field(default_factory=list)
    choices: dict[tuple[str, Any], Candidate] = field(default_factory=dict)

    @property
    def winner(self) -> Candidate | None:
        """The best layout that fits."""
        return self.best[0] if self.best else None

    @property
    def ties(self) -> list[Candidate]:
        """The kept layouts that the model cannot tell from the winner."""
        return [c for c in self.best[1:] if self._tied(c)]

    def _tied(self, other: Candidate) -> bool:
        """By the score; that of objective gpus counts GPUs, which are known, so there it is the step that ties."""
        winner = self.best[0]
        if self.goal.objective == "gpus":
            return other.gpus == winner.gpus and other.step_time <= winner.step_time * (1 + TIE)
        return other.score <= winner.score * (1 + TIE)


def rank(space: Space, goal: Goal | None = None, progress: Progress | None = None, by: Estimator = estimate) -> Ranking:
    """Cost every layout of ``space``; ``by`` is the cost model."""
    ranking = Ranking(goal or Goal())
    started = perf_counter()
    for variant in variants(space):
        layouts = enumerate_layouts(variant)
        ranking.points += layouts.points
        for table in layouts.chunks:
            worthy = _worth_timing(variant, table)
            _take(ranking, variant, worthy, by(as_layout(variant.spec, worthy)))
            ranking.valid += len(table["tp"])
            if progress:
                progress(len(table["tp"]))
        _merge_excluded(ranking.excluded, layouts.excluded)
    ranking.seconds = perf_counter() - started
    return ranking


def budget(cluster: Cluster) -> float:
    """Bytes that the framework's allocator can have on one GPU."""
    return allocatable(cluster.accelerator.memory_gib)


def candidates(
    variant: Variant, table: Columns, costs: Estimate, scores: NDArray[Any], rows: NDArray[Any]
) -> list[Candidate]:
    """The given ``rows`` of a costed table."""
    total = len(scores)
    parts = {f.name: np.broadcast_to(getattr(costs.parts, f.name), total) for f in fields(costs.parts)}
    return [
        Candidate(
            variant,
            {name: int(column[i]) for name, column in table.items()},
            float(costs.step_time[i]),
            float(costs.peak_memory[i]),
            {name: float(part[i]) for name, part in parts.items()},
            float(scores[i]),
        )
        for i in rows
    ]


def _worth_timing(variant: Variant, table: Columns) -> Columns:
    """The layouts that fit in memory and, for each value of each axis, the leanest of those that do not."""
    memory = np.broadcast_to(peak_memory(as_layout(variant.spec, table)), len(table["tp"]))
    fits = memory <= budget(variant.spec.cluster)
    over = np.flatnonzero(~fits)
    leanest = over[np.argsort(memory[over], kind="stable")]
    for _, values in _axis_values(variant, table):
        fits[leanest[_firsts(values[leanest])]] = True
    return {name: column[fits] for name, column in table.items()}


def _take(ranking: Ranking, variant: Variant, table: Columns, costs: Estimate) -> None:
    """Note one costed chunk."""
    goal, rows = ranking.goal, len(table["tp"])
    time, memory = (np.broadcast_to(x, rows) for x in (costs.step_time, costs.peak_memory))
    costs = replace(costs, step_time=time, peak_memory=memory)
    scores = np.broadcast_to(score(goal.objective, variant.spec, time, memory, goal.days), rows)
    fits = memory <= budget(variant.spec.cluster)
    ranking.fitting += int(np.count_nonzero(fits))
    good = fits & (scores < LATE)

    def make(chosen: NDArray[Any]) -> list[Candidate]:
        return candidates(variant, table, costs, scores, chosen)

    ordered = np.lexsort((memory, np.where(fits, scores, memory), ~good, ~fits))
    inside = ordered[: np.count_nonzero(good)]
    kept = max(SURVIVORS, goal.top)
    ranking.best = nsmallest(kept, [*ranking.best, *make(inside[:kept])], key=lambda c: (c.score, c.peak_memory))
    ranking.frontier = undominated([*ranking.frontier, *make(_undominated_rows(time, memory, inside))])
    for axis, values in _axis_values(variant, table):
        first = ordered[_firsts(values[ordered])]
        for code, candidate in zip(values[first].tolist(), make(first), strict=True):
            _choose(ranking.choices, (axis, _named(variant, axis, code)), candidate)


_SPLITS = ("even", "slots", "ends")


def _axis_values(variant: Variant, table: Columns) -> Iterator[tuple[str, NDArray[Any]]]:
    """By axis, a small whole number for each layout; ``_named`` says which value it stands for."""
    for axis in AXES:
        if axis in ("recompute", "gpus"):
            yield axis, np.zeros(len(table["tp"]), dtype=np.int64)
        elif axis == "split":
            ends = (table["first"] > 0) | (table["last"] > 0)
            yield axis, np.where(ends, 2, table["embedding"] | table["loss"])
        else:
            yield axis, table[axis]


def _named(variant: Variant, axis: str, code: int) -> Any:
    spec = variant.spec
    same = {"recompute": spec.parallelism.recompute, "gpus": spec.cluster.gpus}
    return _SPLITS[code] if axis == "split" else same.get(axis, code)


def _firsts(values: NDArray[Any]) -> NDArray[Any]:
    """Where each of the values, whole numbers that are not negative, stands first."""
    places = np.full(values.max(initial=0) + 1, -1)
    places[values[::-1]] = np.arange(len(values))[::-1]  # of several the last is kept: the first of ``values``
    return places[places >= 0]


def _choose(choices: dict[tuple[str, Any], Candidate], key: tuple[str, Any], new: Candidate) -> None:
    """Keep the better one: one that fits by its score, one that does not by its memory."""

    def order(c: Candidate) -> tuple[bool, float]:
        over = c.peak_memory > budget(c.variant.spec.cluster)
        return over, c.peak_memory if over else c.score

    old = choices.get(key)
    if old is None or order(new) < order(old):
        choices[key] = new


def _undominated_rows(time: NDArray[Any], memory: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Of ``rows``, those that none other beats in both: by time, each must need less memory than all before it."""
    by_time = rows[np.lexsort((memory[rows], time[rows]))]
    least = np.minimum.accumulate(memory[by_time])
    first = np.ones(len(by_time), dtype=bool)
    first[1:] = least[1:] < least[:-1]
    return by_time[np.flatnonzero(first)]


def undominated(found: list[Candidate]) -> list[Candidate]:
    """The Pareto set of step time and peak memory, for each number of GPUs apart."""
    kept: list[Candidate] = []
    least: dict[int, float] = {}
    for c in sorted(found, key=lambda c: (c.variant.spec.cluster.gpus, c.step_time, c.peak_memory)):
        gpus = c.variant.spec.cluster.gpus or 0
        if c.peak_memory < least.get(gpus, np.inf):
            kept.append(c)
            least[gpus] = c.peak_memory
    return kept


def _merge_excluded(into: dict[str, Exclusion], new: Mapping[str, Exclusion]) -> None:
    for rule, exclusion in new.items():
        if rule in into:
            into[rule].points += exclusion.points
        else:
            into[rule] = exclusion
