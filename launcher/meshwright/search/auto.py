"""``parallelism=auto``: the search's layout in the place of a written one, in any verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from meshwright.compose import Run, run_of
from meshwright.errors import ConfigError, Problem
from meshwright.resolver import normalise
from meshwright.search.candidate import Candidate, with_layout
from meshwright.search.exact import search
from meshwright.search.objective import Goal
from meshwright.search.rank import Ranking
from meshwright.search.reasons import over
from meshwright.search.space import Space, space, split_sets
from meshwright.spec import Spec

__all__ = ["goal_of", "nothing_fits", "run"]

MARK = "parallelism=auto"


def run(composed: Mapping[str, Any], overrides: Sequence[str], config_dir: str | None = None) -> Run:
    """The composed run with the best layout (or the ``search.place``-th best) for each of its stages.

    Raises:
        ConfigError: where no layout fits.

    """
    words = [word for word in overrides if word != MARK]
    plain, stated = split_sets(_unmarked(composed), words)
    described = run_of(plain, words, config_dir)
    goal, place = goal_of(described), described.options.search.place
    stages = tuple(_best(space(stage, stated), goal, place) for stage in described.stages)
    return replace(described, stages=stages)


def goal_of(described: Run) -> Goal:
    """What the options of the run ask a search for.

    Raises:
        ConfigError: where the objective needs what is not stated.

    """
    o = described.options.search
    if o.objective == "gpus" and (o.days is None or any(not _has_length(stage) for stage in described.stages)):
        missing = "objective gpus needs search.days and the length of the run, training.tokens or training.steps"
        raise ConfigError([Problem("search.days", missing, "search.days")])
    return Goal(o.objective, max(o.top, o.place), o.days)


def nothing_fits(space: Space, ranking: Ranking) -> ConfigError:
    """The error of a search without a winner: what is missing to the leanest layout, or which rules exclude all."""
    if ranking.choices:
        leanest: Candidate = min(ranking.choices.values(), key=lambda c: c.peak_memory)
        return ConfigError([Problem("cluster.gpus", f"no layout fits; the leanest {over(leanest)}", "search.memory")])
    rules = sorted(ranking.excluded.values(), key=lambda e: -e.points)
    by_count = ", ".join(f"{e.rule.id} ({e.points:,})" for e in rules[:5])
    gpus = space.current.cluster.gpus
    text = f"no layout on {gpus} GPUs is valid; of {ranking.points:,}, these rules exclude {by_count}"
    return ConfigError([Problem("parallelism", text, "search.rules")])


def _best(around: Space, goal: Goal, place: int) -> Spec:
    ranking = search(around, goal)
    if len(ranking.best) < place:
        raise nothing_fits(around, ranking)
    return normalise(with_layout(around.current, ranking.best[place - 1].spec))


def _has_length(spec: Spec) -> bool:
    return spec.training.tokens is not None or spec.training.steps is not None


def _unmarked(composed: Mapping[str, Any]) -> dict[str, Any]:
    parallelism = {key: value for key, value in composed["parallelism"].items() if key != "auto"}
    return {**composed, "parallelism": parallelism}
