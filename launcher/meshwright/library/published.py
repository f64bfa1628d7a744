"""What a run's recipe says of its publication: how each value is known, what its authors claim, what was not taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from meshwright.compose.run import Run
from meshwright.spec import Spec
from meshwright.spec.decode import decode
from meshwright.spec.frozen import dataclass

__all__ = ["DISCLOSED", "Spared", "Status", "departures", "published_hours", "sketched", "spared", "spared_of"]

Status = Literal["published", "derived", "inferred", "ours"]
DISCLOSED: frozenset[Status] = frozenset({"published", "derived"})
"""What the authors print, or what follows from it."""


@dataclass(frozen=True, kw_only=True)
class Spared:
    """GiB of the fullest GPU that the authors' trainer does without and no backend here can; ``why`` is the arithmetic.

    ``of``: the stages or variants it is about; none: all.
    """

    gib: float
    why: str
    of: tuple[str, ...] = ()


def published_hours(run: Run) -> str | None:
    """The GPU hours that the authors of a recipe claim, with where and what they count; None where they do not."""
    claim = (run.about.get("claims") or {}).get("gpu_hours")
    if claim is None:
        return None
    note = f"; {claim['note']}" if claim.get("note") else ""
    return f"{claim['value']:,.0f} GPU hours ({claim['source']}, {claim['where']}{note})"


def departures(run: Run) -> Iterator[str]:
    """Values that could not be taken as they were published: what was, and why not."""
    for path, said in run.provenance.items():
        if isinstance(said, Mapping) and said.get("published") is not None:
            yield f"{path}, published as {said['published']}: {said['why']}"


def sketched(run: Run) -> str | None:
    """The title of a run's recipe, of whatever folder, where its authors do not even publish the model."""
    model = run.provenance.get("model")
    disclosed = not isinstance(model, Mapping) or model.get("status") in DISCLOSED
    return None if disclosed else str(run.about.get("title"))


def spared(run: Run, spec: Spec) -> tuple[Spared, ...]:
    """What the authors' trainer did without in a stage or variant of the run."""
    return spared_of((decode(Spared, one) for one in run.about.get("spared") or ()), spec.names)


def spared_of(said: Iterable[Spared], names: Sequence[str]) -> tuple[Spared, ...]:
    """Of what is said, that about the stage or variant of these ``names``."""
    return tuple(one for one in said if not one.of or {*one.of} & {*names})
