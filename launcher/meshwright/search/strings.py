"""Layout strings that a search tries beside simple splits.

Where prediction layers or layers of several kinds let no simple split come near even: the best string for each number
of stages, with 1, 2, 4, ... chunks; others between these would save a small part of the bubble, and take time to cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product

from meshwright.layout.balance import best_splits
from meshwright.model.kinds import kinds
from meshwright.model.work import pipeline_work
from meshwright.search.proposals import divisors
from meshwright.spec import Spec
from meshwright.spec.model import Model

__all__ = ["strings"]

_SPLIT = frozenset(("first", "last", "embedding", "loss"))


def strings(spec: Spec, stated: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[int, int, str]]:
    """(pp, vpp, layout string) of a normalised Spec, among the stated values; none where a split is stated."""
    model = spec.model
    if spec.backend.name != "megatron" or _SPLIT & stated.keys() or (len(kinds(model)) == 1 and not model.mtp):
        return
    parts = model.layers + model.mtp + 1
    degrees = stated.get("pp", tuple(pp for pp in divisors(spec.cluster.gpus or 1) if pp <= parts))
    chunks = stated.get("vpp", tuple(1 << i for i in range(parts.bit_length())))
    for pp, vpp in product(degrees, chunks):
        if 1 < pp <= pp * vpp <= parts and (layout := _best(model, spec.training.sequence, pp, vpp)):
            yield pp, vpp, layout


@lru_cache(maxsize=4096)
def _best(model: Model, sequence: int, pp: int, vpp: int) -> str | None:
    """None where a split that needs no string is near the best."""
    found = best_splits(model, pipeline_work(model, sequence), pp, vpp)
    return found[0].division.layout if found else None
