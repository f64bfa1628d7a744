"""Bytes that one decoder layer hands to its groups for one micro-batch: what both traffic and time are counted from."""

from __future__ import annotations

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, where
from meshwright.model.layers import LayerKind, parts

__all__ = ["again", "expert", "hidden", "keys", "queries", "routed", "tensor"]


def hidden(s: Scene) -> Number:
    """The hidden states of one micro-batch, whole."""
    return s.width * s.layout.model.hidden * s.tokens


def tensor(s: Scene, kind: LayerKind) -> tuple[tuple[Number, ...], tuple[Number, ...]]:
    """What is gathered on entering, and scattered on leaving, each pair of column- and row-parallel products.

    Routed experts' exchange is counted apart.
    """
    model, whole = s.layout.model, hidden(s)
    widths = [width for part in parts(kind) if (width := part.gathered(model)) is not None]
    entering = tuple(where(s.layout.sp, whole * width / model.hidden, whole) for width in widths)
    return entering, tuple(whole for _ in widths)


def routed(kind: LayerKind) -> bool:
    """Whether a layer sends its tokens to experts."""
    return any(part.routed for part in parts(kind))


def expert(s: Scene) -> Number:
    """Tokens that one rank sends to their experts."""
    moe = s.layout.model.moe
    return 0 if moe is None else moe.topk * hidden(s) / s.layout.tp


def keys(s: Scene, kind: LayerKind) -> Number:
    """Keys and values of one rank's tokens."""
    return s.width * s.tokens * sum(part.exchange(s.layout.model).keys for part in parts(kind)) / s.layout.tp


def queries(s: Scene, kind: LayerKind) -> Number:
    """Queries and attention's output of one rank's tokens."""
    return s.width * s.tokens * sum(part.exchange(s.layout.model).queries for part in parts(kind)) / s.layout.tp


def again(s: Scene, module: str = "") -> Number:
    """1 where recomputation repeats the communication: all of it where full, else that inside ``module``."""
    modules = s.layout.spec.parallelism.recompute_modules or ("core_attn",)
    return where(s.layout.recompute == 2, 1, (s.layout.recompute == 1) * (module in modules))
