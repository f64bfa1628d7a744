"""What the authors' trainer does without on a GPU, as their recipe says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshwright.spec.frozen import dataclass

__all__ = ["Spared", "spared_of"]


@dataclass(frozen=True, kw_only=True)
class Spared:
    """GiB of the fullest GPU that the authors' trainer does without and no backend here can; ``why`` is the arithmetic.

    ``of``: the stages or variants it is about; none: all.
    """

    gib: float
    why: str
    of: tuple[str, ...] = ()


def spared_of(said: Iterable[Spared], names: Sequence[str]) -> tuple[Spared, ...]:
    """Of what is said, that about the stage or variant of these ``names``."""
    return tuple(one for one in said if not one.of or {*one.of} & {*names})
