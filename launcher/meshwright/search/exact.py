"""Survivors of a search costed again, each as a resolved plan with its pipeline simulated."""

from __future__ import annotations

from dataclasses import replace

from meshwright.cost import cost
from meshwright.resolver import resolve
from meshwright.rules.requirements import lacking
from meshwright.search.candidate import Candidate
from meshwright.search.objective import LATE, Goal, score
from meshwright.search.rank import Ranking, rank, undominated
from meshwright.search.space import Space, Variant
from meshwright.spec import Spec

__all__ = ["exact", "explained", "layout_cost", "refined", "search"]


def search(space: Space, goal: Goal) -> Ranking:
    """Rank every layout of ``space`` by the closed form, and the best of them exactly."""
    return refined(rank(space, goal))


def refined(ranking: Ranking) -> Ranking:
    """The ranking with its best costed exactly and sorted anew.

    The closed form is a lower bound of the exact step time. Survivors are taken by their bound until the next bound is
    no better than the last of the exact best: then no layout that was left out can be among them (``proven``).
    """
    best: list[Candidate] = []
    proven = len(ranking.best) == ranking.fitting
    for survivor in ranking.best:
        if len(best) >= ranking.goal.top and survivor.score >= best[-1].score:
            proven = True
            break
        candidate = exact(survivor, ranking.goal)
        if candidate is not None:
            best = sorted([*best, candidate], key=lambda c: (c.score, c.peak_memory))[: ranking.goal.top]
    return replace(ranking, best=best, proven=proven)


def explained(ranking: Ranking) -> Ranking:
    """The ranking with what it shows beside the best costed exactly, too: the frontier and each value's layout."""
    return replace(
        ranking,
        frontier=undominated([c for old in ranking.frontier if (c := exact(old, ranking.goal))]),
        choices={key: exact(old, ranking.goal) or old for key, old in ranking.choices.items()},
    )


def exact(candidate: Candidate, goal: Goal) -> Candidate | None:
    """The layout costed as a plan; None where it does not fit, is late, or needs what the nodes lack."""
    if any(lacking(candidate.spec, candidate.spec.backend.name)):
        return None
    found, fits = _costed(candidate, goal)
    return found if fits and found.score < LATE else None


def layout_cost(spec: Spec, goal: Goal) -> Candidate:
    """A described layout, costed exactly; its rules must hold."""
    return _costed(Candidate(Variant(spec, {}), {}, 0.0, 0.0, {}, 0.0), goal)[0]


def _costed(candidate: Candidate, goal: Goal) -> tuple[Candidate, bool]:
    whole = cost(resolve(candidate.spec), explained=False)
    time, memory = whole.step_time, whole.peak_memory
    parts = {name: float(getattr(whole.step, name)) for name in whole.step.__dataclass_fields__}
    value = float(score(goal.objective, candidate.spec, time, memory, goal.days))
    found = replace(candidate, step_time=time, peak_memory=memory, parts=parts, score=value)
    return found, whole.fits
