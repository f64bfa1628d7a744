"""The one table of what a model does: operations, their weights, the tensors they move and keep.

What stands inside a layer is said by its parts in ``model.layers``; here are the ends, and layers put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from meshwright.model.kinds import ahead_kinds
from meshwright.model.layers import LayerKind, feed_forward, parts
from meshwright.model.layers.shared import drops, linear, norm
from meshwright.model.operation import FUSED, WHOLE, Degrees, Kernels, Number, Operation, Parts, Shard, Tensor, Weight
from meshwright.spec import Model

__all__ = [
    "Degrees",
    "Kernels",
    "Operation",
    "Tensor",
    "Weight",
    "decoder_layer",
    "embedding",
    "final_norm",
    "head",
    "mtp_joint",
    "mtp_layer",
    "parameters",
]


def parameters(
    operations: Iterable[Operation], tp: Number = 1, etp: Number = 1, ep: Number = 1, parts: Parts = WHOLE
) -> tuple[Number, Number]:
    """(all, of these routed experts') parameters of one rank."""
    weights = [w for operation in operations for w in operation.weights]
    expert = sum(w.on_rank(tp, etp, ep, parts) for w in weights if w.shard == "expert")
    return expert + sum(w.on_rank(tp, etp, ep, parts) for w in weights if w.shard != "expert"), expert


def embedding(model: Model, vocab: Number, cut: bool = True) -> tuple[Operation, ...]:
    """The input side: word (and learned position) embeddings, with ``vocab`` rows, padded or not, ``cut`` by tp."""
    shard: Shard = "tp" if cut else "replicated"
    if model.measured is not None:  # with all that is in no layer
        rows = model.measured.outside + (vocab - model.vocab) * model.hidden
        moved = (Tensor(6 * model.hidden, "sequence"),)
        return (Operation("embedding", (Weight("embedding.word", rows, shard),), (Tensor(8, "replicated"),), moved),)
    weights = [Weight("embedding.word", vocab * model.hidden, shard, rows=vocab)]
    if model.positions in ("learned", "sinusoidal_table"):
        weights.append(Weight("embedding.position", model.position_rows * model.hidden, "replicated"))
    norms = [norm(model, "embedding.norm", model.hidden)] if model.embedding_norm else []
    dropout = model.hidden if drops(model.hidden_dropout) else 0
    return (
        Operation(
            "embedding",
            tuple(weights + [w for n in norms for w in n.weights]),
            saved=(Tensor(8, "replicated"), Tensor(dropout, "sequence")),
            moved=(Tensor(6 * model.hidden, "sequence"),),
        ),
    )


def final_norm(model: Model) -> tuple[Operation, ...]:
    """The norm after the last decoder layer, which needs none where it ends with one."""
    ends = model.measured is not None or model.norm_placement == "post"
    return () if ends else (norm(model, "final_norm", model.hidden),)


def head(model: Model, vocab: Number, shares_embedding: bool, cut: bool = True) -> tuple[Operation, ...]:
    """The output projection, ``cut`` by tp; it has no weight of its own where it ``shares_embedding`` on its chunk."""
    shard: Shard = "tp" if cut else "replicated"
    weights = () if shares_embedding else (Weight("head", vocab * model.hidden, shard, rows=vocab),)
    bias = (Weight("head.bias", vocab, "tp"),) if model.output_bias else ()
    return (Operation("head", weights + bias, region="enter"),)


def decoder_layer(model: Model, kind: LayerKind, kernels: Kernels = FUSED) -> tuple[Operation, ...]:
    """One decoder layer of a kind: norms, its parts, the additions to the residual."""
    if isinstance(model.hidden, int):  # of rows alike in structure the sizes are arrays, which have no hash
        return _known_layer(model, kind, kernels)
    return _layer(model, kind, kernels)


@lru_cache(maxsize=256)
def _known_layer(model: Model, kind: LayerKind, kernels: Kernels) -> tuple[Operation, ...]:
    return _layer(model, kind, kernels)


def _layer(model: Model, kind: LayerKind, kernels: Kernels) -> tuple[Operation, ...]:
    inside = (operation for part in parts(kind) for operation in part.operations(model, kernels))
    if model.measured is not None:
        return tuple(inside)
    idle = _cross_attention(model) if model.cross_attention else ()
    return (*_norms(model, kind, kernels), *inside, *idle, *_residuals(model, kind, kernels))


def mtp_layer(model: Model, kernels: Kernels = FUSED) -> tuple[Operation, ...]:
    """One multi-token-prediction layer: decoder layers of its kinds, two norms, a projection, a norm.

    Its embedding and head are shared with the main model (DeepSeek-V3, section 2.2).
    """
    inside = (operation for kind in ahead_kinds(model) for operation in decoder_layer(model, kind, kernels))
    return (*mtp_joint(model), *inside)


def mtp_joint(model: Model) -> tuple[Operation, ...]:
    """What joins a multi-token-prediction layer to the model: its own norms, and the projection of both inputs."""
    hidden = model.hidden
    norms = [norm(model, f"mtp.{name}", hidden) for name in ("embedding_norm", "hidden_norm", "final_norm")]
    return (*norms, linear("mtp.projection", 2 * hidden, hidden, saves="sequence"))


def _norms(model: Model, kind: LayerKind, kernels: Kernels) -> Iterator[Operation]:
    """The norm before each part, and around it where sandwiched.

    Transformer Engine joins a norm to the linear behind it; only before latent attention and experts is it a module of
    its own, which selective recomputation can reach (megatron/core/transformer/transformer_layer.py:453, :501).
    """
    for part in parts(kind):
        second = model.parallel_residual and part is feed_forward(kind)  # it reads what the first one reads
        if not (second and model.shared_parallel_norm):
            own = "layernorm" if part.own_norm or not kernels.joined else ""
            yield norm(model, part.norm, model.hidden, kernels=kernels, recompute=own, alone=not second)
    if model.norm_placement == "sandwich":
        for part in parts(kind):
            name = part.norm.replace(".norm", ".output_norm")
            yield norm(model, name, model.hidden, kernels=kernels, multiplied=False)


def _cross_attention(model: Model) -> Iterator[Operation]:
    """Weights of attention to an encoder's output: there is none, so that nothing is computed with them."""
    wide, biased = model.heads * model.head_dim, model.linear_bias and model.attention_bias == "all"
    into, out = linear("cross_attention", model.hidden, 3 * wide), linear("cross_attention", wide, model.hidden)
    weights = [Weight("cross_attention.idle", o.weights[0].elements, "tp") for o in (into, out)]
    if biased:
        weights += [Weight("cross_attention.qkv.bias", 3 * wide, "tp")]
    if model.linear_bias and model.attention_bias != "none":
        weights += [Weight("cross_attention.output.bias", model.hidden, "replicated")]
    yield Operation("cross_attention", (*weights, *norm(model, "cross_attention.norm", model.hidden).weights))


def _residuals(model: Model, kind: LayerKind, kernels: Kernels) -> Iterator[Operation]:
    """An addition for each part (bias and dropout fused into them); dropout keeps its mask, one byte an element.

    Unfused ones keep three 16-bit copies (inferred from which runs of Hagemann et al. 2023 ran out of memory).
    """
    count, hidden = len(parts(kind)), model.hidden
    mask = (Tensor(count * hidden, "sequence"),) if drops(model.hidden_dropout) else ()
    copies = () if kernels.residual else (Tensor(3 * count * hidden, "sequence"),)
    moved = (Tensor(6 * count * hidden, "sequence"), *mask, *copies)
    yield Operation("residual", saved=(*mask, *copies), moved=moved, kernels=count)
