"""``parallelism=auto``: the search's layout in the place of a written one, in any verb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.compose import Run, Search
from meshwright.errors import ConfigError, Problem
from meshwright.resolver import normalise
from meshwright.search.candidate import Candidate, with_layout
from meshwright.search.exact import search
from meshwright.search.objective import Goal, run_days
from meshwright.search.rank import Ranking, budget, rank
from meshwright.search.reasons import over
from meshwright.search.space import COLUMNS, Space, space
from meshwright.search.techniques import with_techniques
from meshwright.spec import Spec

__all__ = ["goal_of", "laid_out", "nothing_fits"]

MOST = 1000
"""Layouts that can be asked for: simulating each takes milliseconds to a second."""


def laid_out(described: Run) -> Run:
    """The run with the best layout (or the ``search.place``-th best) for each stage, where its layouts are open.

    Raises:
        ConfigError: where no layout fits.

    """
    if described.open is None:
        return described
    stated = described.open
    goal, place = goal_of(described), described.options.search.place
    spaces = [with_techniques(space(s, stated), described.options.search.techniques) for s in described.stages]
    stages = tuple(_best(around, goal, place) for around in spaces)
    return replace(described, stages=stages, open=None)


def goal_of(described: Run) -> Goal:
    """What the options of the run ask a search for.

    Raises:
        ConfigError: where the objective needs what is not stated, or there cannot be as many layouts.

    """
    o = described.options.search
    problems = list(_wrong_numbers(o))
    if o.objective == "gpus" and (o.days is None or any(not _has_length(stage) for stage in described.stages)):
        missing = "objective gpus needs search.days and the length of the run, training.tokens or training.steps"
        problems.append(Problem("search.days", missing, "search.days"))
    if problems:
        raise ConfigError(problems)
    return Goal(o.objective, max(o.top, o.place), o.days)


def nothing_fits(space: Space, ranking: Ranking) -> ConfigError:
    """The error of a search without a winner: what the leanest or fastest layout lacks, or which rules exclude all."""
    if ranking.choices:
        return ConfigError([_too_large(ranking)] if _leanest_is_over(ranking) else [_too_slow(ranking)])
    rules = sorted(ranking.excluded.values(), key=lambda e: -e.points)
    by_count = ", ".join(f"{e.rule.id} ({e.points:,})" for e in rules[:5])
    gpus = space.current.cluster.gpus
    text = f"no layout on {gpus} GPUs is valid; of {ranking.points:,}, these rules exclude {by_count}"
    nearest = ", or ".join(_nearest(space, ranking.goal))
    text += f"; {nearest} would let some in" if nearest else ""
    return ConfigError([Problem("parallelism", text, "search.rules")])


def _nearest(space: Space, goal: Goal) -> Iterator[str]:
    """For each pinned number: the nearest other value with which there are valid layouts, where there is one."""
    for path, pinned in space.stated.items():
        if path not in COLUMNS or not all(type(value) is int for value in pinned):
            continue
        freed = rank(replace(space, stated={p: v for p, v in space.stated.items() if p != path}), goal)
        values = [value for axis, value in freed.choices if axis == COLUMNS[path]]
        if values:
            yield f"{path}={min(values, key=lambda value: min(abs(value - one) for one in pinned))}"


def _best(around: Space, goal: Goal, place: int) -> Spec:
    ranking = search(around, goal)
    if not ranking.best:
        raise nothing_fits(around, ranking)
    if len(ranking.best) < place:
        few = f"{place}, but only {len(ranking.best)} layout(s) do what is asked; give at most {len(ranking.best)}"
        raise ConfigError([Problem("search.place", few, "search.place")])
    return normalise(with_layout(around.current, ranking.best[place - 1].spec))


def _wrong_numbers(asked: Search) -> Iterator[Problem]:
    for name in ("top", "place"):
        if not 1 <= (value := getattr(asked, name)) <= MOST:
            message = f"{value} is not within 1 and {MOST:,}; each of the best is simulated, give fewer"
            yield Problem(f"search.{name}", message, f"search.{name}")
    if asked.days is not None and asked.days <= 0:
        yield Problem("search.days", f"{asked.days:g} days are none; give more than 0, or null", "search.days")


def _leanest(ranking: Ranking) -> Candidate:
    return min(ranking.choices.values(), key=lambda c: c.peak_memory)


def _leanest_is_over(ranking: Ranking) -> bool:
    """Whether memory is what is missing: only objective gpus turns down what fits."""
    leanest = _leanest(ranking)
    return ranking.goal.objective != "gpus" or leanest.peak_memory > budget(leanest.spec.cluster)


def _too_large(ranking: Ranking) -> Problem:
    return Problem("cluster.gpus", f"no layout fits; the leanest {over(_leanest(ranking))}", "search.memory")


def _too_slow(ranking: Ranking) -> Problem:
    """The fastest layout that fits: for each number of GPUs, it is among the choices."""
    assert ranking.goal.days is not None
    fitting = [c for c in ranking.choices.values() if c.peak_memory <= budget(c.spec.cluster)]
    fastest = min(fitting, key=lambda c: run_days(c.spec, c.step_time))
    days = run_days(fastest.spec, fastest.step_time)
    text = f"{ranking.goal.days:g}, but the fastest layout that fits takes {days:.1f} days on {fastest.gpus:,} GPUs"
    return Problem("search.days", f"{text}; allow more days, or give more GPUs with cluster.gpus", "search.days")


def _has_length(spec: Spec) -> bool:
    return spec.training.tokens is not None or spec.training.steps is not None
