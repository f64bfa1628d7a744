"""Bytes that one decoder layer hands to its groups for one micro-batch: what both traffic and time are counted from."""

from __future__ import annotations

from meshwright.cost.collectives import Group
from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.model.layers import LayerKind, parts
from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Moe

__all__ = [
    "again",
    "between_nodes",
    "copies",
    "deals",
    "dealt",
    "expert",
    "hidden",
    "keys",
    "logits",
    "queries",
    "routed",
    "tensor",
]


def hidden(s: Scene) -> Number:
    """The hidden states of one micro-batch, whole."""
    return s.width * s.layout.model.hidden * s.tokens


def logits(s: Scene) -> Number:
    """Bytes of one micro-batch's logits that are gathered by the ranks which each hold a part of the head."""
    return s.framework.gathers_logits * (s.words > 1) * s.width * s.tokens * s.vocab


@dataclass(frozen=True)
class Tensors:
    """Bytes of what a tensor-parallel group gathers and scatters, of each pair of column- and row-parallel products.

    ``entering``: inputs, gathered in the forward and again in the backward; ``leaving``: outputs, scattered; backward
    ``gradients`` of outputs are gathered and ``returned`` ones of inputs scattered.
    """

    entering: tuple[Number, ...]
    leaving: tuple[Number, ...]
    gradients: tuple[Number, ...]
    returned: tuple[Number, ...]


def tensor(s: Scene, kind: LayerKind) -> Tensors:
    """What is gathered and scattered; without sequence parallelism an all-reduce is a scatter and a gather.

    Routed experts' exchange is counted apart.
    """
    model, whole = s.layout.model, hidden(s)
    widths = [width for part in parts(kind) for width in [part.gathered(model)] * part.pairs if width is not None]
    returned = tuple(where(s.layout.sp, whole * width / model.hidden, whole) for width in widths)
    leaving = tuple(whole for _ in widths)
    inputs, gradients = (where(s.layout.sp, each / 2, 1) for each in s.framework.coded)
    return Tensors(
        tuple(inputs * size for size in returned), leaving, tuple(gradients * size for size in leaving), returned
    )


def routed(kind: LayerKind) -> bool:
    """Whether a layer sends its tokens to experts."""
    return any(part.routed for part in parts(kind))


def expert(s: Scene) -> Number:
    """Tokens that one rank sends to their experts."""
    moe = s.layout.model.moe
    return 0 if moe is None else moe.topk * s.degrees.load * _sent(s, moe) / s.layout.tp


def _sent(s: Scene, moe: Moe) -> Number:
    """One copy of the tokens of a micro-batch, as wide as the experts see them."""
    return s.width * (moe.latent or s.layout.model.hidden) * s.tokens


def between_nodes(s: Scene, g: Group) -> Number | None:
    """Bytes that a rank's tokens take out of its node, once for each node with experts of theirs; None: a copy each.

    DeepEP and HybridEP send a token to a node once and copy it there (DeepEP, README: NVLink and RDMA forwarding).
    Over n nodes, k experts drawn alike are on n*(1 - (1 - 1/n)^k) of them; group-limited routing allows so many groups.
    Experts that are padded draw a token as often more.
    """
    moe = s.layout.model.moe
    if moe is None or not s.framework.sends_once:
        return None
    nodes = g.size / g.near
    reached = minimum(_reached(s, moe, nodes, nodes), _allowed(moe, nodes))
    return reached * (nodes - 1) / nodes * _sent(s, moe) / s.layout.tp


def copies(s: Scene, g: Group) -> Number:
    """Bytes of a rank's tokens, once for each rank with experts of theirs, as DeepEP sends them.

    Group-limited routing allows a part of the ranks.
    """
    moe = s.layout.model.moe
    assert moe is not None
    return _reached(s, moe, g.size, _allowed(moe, g.size)) * _sent(s, moe) / s.layout.tp


def _allowed(moe: Moe, parts: Number) -> Number:
    """Of ``parts`` of the experts, those that hold one of the groups that a token's experts are chosen from.

    Where a part holds several groups, as many as so many groups drawn alike lie on: a part is left out with the
    probability that all of them are among the others'.
    """
    if moe.groups == 1:
        return parts
    own = moe.groups / parts
    missed: Number = 1.0
    for drawn in range(moe.group_topk):
        missed = missed * maximum(0, moe.groups - own - drawn) / (moe.groups - drawn)
    return where(parts > moe.groups, moe.group_topk * parts / moe.groups, parts * (1 - missed))


def _reached(s: Scene, moe: Moe, parts: Number, allowed: Number) -> Number:
    """Of ``parts`` of the experts, those that have one of a token's, where it may go to ``allowed``.

    Of r, k experts drawn alike are on r*(1 - (1 - 1/r)^k) of them; k neighbours, where a benchmark deals tokens out, on
    as many as hold k experts.
    """
    drawn = moe.topk * s.degrees.load
    if s.framework.deals_tokens:
        return maximum(1, drawn * parts / moe.experts)
    return allowed * (1 - (1 - 1 / allowed) ** drawn)


def keys(s: Scene, kind: LayerKind) -> Number:
    """Keys and values of one rank's tokens."""
    exchanged = [part.exchange(s.layout.model) for part in parts(kind)]
    return s.width * s.tokens * sum(each.keys / s.layout.tp + each.shared for each in exchanged)


def queries(s: Scene, kind: LayerKind) -> Number:
    """Queries and attention's output of one rank's tokens."""
    return s.width * s.tokens * sum(part.exchange(s.layout.model).queries for part in parts(kind)) / s.layout.tp


def deals(s: Scene) -> bool:
    """Whether some layer's ranks exchange their tokens for whole sequences of some heads."""
    return any(part.exchange(s.layout.model).dealt for kind in s.kinds for part in parts(kind))


def dealt(s: Scene, kind: LayerKind) -> Number:
    """What layers that scan a sequence exchange of one rank's tokens, to have whole sequences of some heads."""
    return s.width * s.tokens * sum(part.exchange(s.layout.model).dealt for part in parts(kind)) / s.layout.tp


def again(s: Scene, module: str = "") -> Number:
    """1 where recomputation repeats the communication: all of it where full, else that inside ``module``."""
    modules = s.layout.spec.parallelism.recompute_modules or ("core_attn",)
    return where(s.layout.recompute == 2, 1, (s.layout.recompute == 1) * (module in modules))
