"""A search from question to answer: everything that the verb reports, for one stage of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.cost.memory import GIB
from meshwright.errors import Problem
from meshwright.layout.notebook import html_table
from meshwright.resolver import normalise, refusals
from meshwright.search.candidate import Candidate, layout_words
from meshwright.search.exact import explained, layout_cost, refined
from meshwright.search.objective import Goal
from meshwright.search.rank import Progress, Ranking, rank
from meshwright.search.reasons import Answer, Comparison, asked_of, compare, why
from meshwright.search.space import Space
from meshwright.spec.frozen import dataclass

__all__ = ["Result", "answer"]


@dataclass(frozen=True, repr=False)
class Result:
    """``current`` is the described layout, or None where ``wrong`` says why it is none."""

    space: Space
    ranking: Ranking
    current: Candidate | None
    wrong: tuple[Problem, ...]
    against_runner_up: Comparison | None  # from the runner-up to the winner
    against_current: Comparison | None  # from the described layout to the winner
    why: Answer | None = None

    def __repr__(self) -> str:
        """How many layouts there are, and the best."""
        r = self.ranking
        best = "" if r.winner is None else f", the best {r.winner.step_time:.3g} s: {layout_words(r.winner)}"
        return f"<Result {'/'.join(self.space.current.names)}: {r.fitting:,} of {r.valid:,} layouts fit{best}>"

    def _repr_html_(self) -> str:
        """The best layouts."""
        rows = (
            (str(i), f"{c.step_time:.3g}", f"{c.peak_memory / GIB:.1f}", f"{c.tokens_per_gpu:,.0f}", layout_words(c))
            for i, c in enumerate(self.ranking.best, 1)
        )
        head = ("place", "seconds", "GiB", "tokens/s/GPU", "layout")
        return html_table("/".join(self.space.current.names), rows, head)


def answer(
    space: Space, goal: Goal, question: Mapping[str, Any] | None = None, progress: Progress | None = None
) -> Result:
    """Rank ``space`` and explain the winner; ``question`` as for ``why``.

    Raises:
        ConfigError: as ``why`` does, before anything is ranked.

    """
    asked_of(space.current, question or {})
    ranking = explained(refined(rank(space, goal, progress)))
    wrong = tuple(refusals(space.current, space.current.backend.name))
    current = None if wrong else layout_cost(normalise(space.current), goal)
    winner, second = ranking.winner, ranking.best[1] if len(ranking.best) > 1 else None
    return Result(
        space=space,
        ranking=ranking,
        current=current,
        wrong=wrong,
        against_runner_up=compare(second, winner) if winner and second else None,
        against_current=compare(current, winner) if winner and current else None,
        why=why(space, ranking, question) if question else None,
    )
