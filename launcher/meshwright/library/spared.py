"""What the authors' trainer does without on a GPU, where no backend here can: what then becomes of the memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshwright.cost.fitting import fit_probability, fit_words
from meshwright.cost.memory import GIB
from meshwright.cost.plan_cost import Cost
from meshwright.library.recipe import About, Spared
from meshwright.spec import Spec
from meshwright.spec.decode import decode

__all__ = ["of_part", "spared_of", "theirs", "words"]


def spared_of(about: Mapping[str, Any], spec: Spec) -> tuple[Spared, ...]:
    """What a composed recipe's ``about`` says of the stage or variant; nothing where the run is no recipe's."""
    return of_part(decode(About, about).spared if about.get("spared") else (), spec)


def of_part(said: Iterable[Spared], spec: Spec) -> tuple[Spared, ...]:
    """Of what is said, that about the stage or variant."""
    return tuple(one for one in said if not one.of or {*one.of} & {*spec.names})


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
