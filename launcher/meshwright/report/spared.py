"""Memory as the authors' trainer held it, where it does without what no backend here can do without."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.cost.fitting import fit_probability, fit_words
from meshwright.cost.memory import GIB
from meshwright.cost.plan_cost import Cost
from meshwright.library.published import Spared

__all__ = ["theirs", "words"]


def theirs(cost: Cost, spared: Iterable[Spared]) -> float:
    """Bytes of the fullest GPU as the authors' trainer held them."""
    return cost.peak_memory - GIB * sum(one.gib for one in spared)


def words(cost: Cost, spared: tuple[Spared, ...]) -> str:
    """A line that says so, with how likely that fits."""
    peak = theirs(cost, spared)
    chance = fit_words(fit_probability(peak, cost.memory_limit, cost.memory_spread))
    less = sum(one.gib for one in spared)
    reasons = "; ".join(one.why for one in spared)
    return f"{less:.1f} GiB less, {peak / GIB:.1f} (to fit: {chance}): {reasons}"
