"""A model that no Model can say, as its own modules were found to be: what transformers built on the meta device."""

from __future__ import annotations

from typing import Literal

from meshwright.spec.frozen import dataclass

__all__ = ["Measured", "MeasuredLayer"]


@dataclass(frozen=True, kw_only=True)
class MeasuredLayer:
    """One kind of block, all numbers of one layer.

    ``parameters`` with those of stacked experts, of which there are ``expert_parameters`` in ``experts`` copies,
    ``topk`` for each token. ``flops``: of one token's forward, without what grows with the sequence; ``scores``: the
    width over which it multiplies with every token. Bytes of one token, in 16 bits: ``saved`` for the backward,
    ``moved`` through the kernels; ``_squared`` ones times the sequence length.
    """

    parameters: int
    expert_parameters: int = 0
    experts: int = 1
    topk: int = 1
    flops: int = 0
    scores: int = 0
    saved: float = 0.0
    saved_squared: float = 0.0
    moved: float = 0.0
    moved_squared: float = 0.0
    kernels: int = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``config`` is the text of config.json, ``miniature`` that of a small model of the same class, where one builds.

    ``kinds`` are the distinct layers and ``order`` which of them stands where. ``outside``: parameters that are in no
    layer and not the head's own. ``how``: run on the meta device, or, where its code cannot run there, reckoned from
    the shapes of its modules. ``lacks``: why no Model can say it. ``remote``: the folder with the code of its own.
    """

    cls: str
    config: str
    kinds: tuple[MeasuredLayer, ...]
    order: tuple[int, ...]
    outside: int
    how: Literal["run", "shapes"]
    lacks: str
    sdpa: bool = True
    flash: bool = True
    miniature: str | None = None
    remote: str | None = None
