"""What a kind of layer part says of itself: a mixer of tokens or a feed-forward part."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshwright.model.operation import Kernels, Operation
from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Model

__all__ = ["NONE", "Exchange", "LayerKind", "Part"]

NONE = "none"
"""The name of a part that a layer does not have."""


@dataclass(frozen=True)
class LayerKind:
    """The names of a layer's two parts in ``model.layers`` (``MIXERS``, ``FEED_FORWARDS``)."""

    mixer: str = NONE
    ffn: str = NONE


@dataclass(frozen=True)
class Exchange:
    """Elements of a token that the ranks of a context-parallel group pass on.

    ``keys`` (with values) go round the ring; where heads are exchanged for tokens, ``queries`` (with the output) go,
    too. ``output`` is what attention gives. ``dealt`` are exchanged for heads on every way in and out, whichever way
    keys travel. ``shared`` are keys of one head for all, which every rank of a tensor-parallel group receives whole.
    """

    keys: int = 0
    queries: int = 0
    output: int = 0
    dealt: int = 0
    shared: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of mixer or feed-forward part. Functions take the model; counts are of the whole layer, of one token.

    ``symbol``: how a pattern writes it, as Megatron's ``--hybrid-layer-pattern`` does where it has it. ``options``: the
    fields of a model that it cannot be without.
    ``extras``: others that no other kind reads.
    ``operations``: what it does, with weights, sharding and saved tensors (``model.operation``); its own norm apart.
    ``norm``: the name of that norm. ``own_norm``: whether Megatron makes it a module of its own, which selective
    recomputation can reach, instead of a part of the linear behind it.
    ``gathered``: elements that ranks of a tensor-parallel group gather on entering where sequence parallelism is on;
    None where the group exchanges nothing. ``pairs``: of column- and row-parallel products side by side, each with
    exchanges of its own. ``widest``: elements of the widest tensor between its products.
    """

    symbol: str
    operations: Callable[[Model, Kernels], Iterable[Operation]]
    norm: str
    options: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    own_norm: bool = False
    gathered: Callable[[Model], int | None] = lambda model: model.hidden
    pairs: int = 1
    exchange: Callable[[Model], Exchange] = lambda _: Exchange()
    widest: Callable[[Model], int] = lambda _: 0
    routed: bool = False  # its tokens travel to their experts and back
