"""The one table of what a layer does: its operations, their weights, the tensors they move and keep.

Parameters per rank follow Transformer Engine's layers in Megatron-core: column- and row-parallel linears are cut
over ``tp``, routed experts over ``etp`` within an expert and ``ep`` between experts, norms and the router are
replicated, and so are MLA's down-projections (``TELinear`` with ``parallel_mode="duplicated"``,
megatron/core/transformer/multi_latent_attention.py). Saved tensors follow Transformer Engine's modules, too; with
other ``Kernels`` they follow Megatron's own and eager PyTorch. All arithmetic is on integers or NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from meshwright.model.operation import FUSED, Cut, Degrees, Kernels, Number, Operation, Shard, Tensor, Weight
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
    operations: Iterable[Operation], tp: Number = 1, etp: Number = 1, ep: Number = 1
) -> tuple[Number, Number]:
    """(all, of these routed experts') parameters of one rank."""
    weights = [w for operation in operations for w in operation.weights]
    expert = sum(w.on_rank(tp, etp, ep) for w in weights if w.shard == "expert")
    return expert + sum(w.on_rank(tp, etp, ep) for w in weights if w.shard != "expert"), expert


def embedding(model: Model, vocab: Number) -> tuple[Operation, ...]:
    """The input side: word (and learned position) embeddings, with ``vocab`` rows, padded or not."""
    weights = [Weight("embedding.word", vocab * model.hidden, "tp")]
    if model.positions == "learned":
        weights.append(Weight("embedding.position", model.max_positions * model.hidden, "replicated"))
    norm = [_norm(model, "embedding.norm", model.hidden)] if model.embedding_norm else []
    dropout = model.hidden if _drops(model.hidden_dropout) else 0
    return (
        Operation(
            "embedding",
            tuple(weights + [w for n in norm for w in n.weights]),
            saved=(Tensor(8, "replicated"), Tensor(dropout, "sequence")),
            moved=(Tensor(6 * model.hidden, "sequence"),),
        ),
    )


def final_norm(model: Model) -> tuple[Operation, ...]:
    """The norm after the last decoder layer."""
    return (_norm(model, "final_norm", model.hidden),)


def head(model: Model, vocab: Number, shares_embedding: bool) -> tuple[Operation, ...]:
    """The output projection; it has no weight of its own where it ``shares_embedding`` on the same chunk."""
    weights = () if shares_embedding else (Weight("head", vocab * model.hidden, "tp"),)
    return (Operation("head", weights, region="enter"),)


def decoder_layer(model: Model, moe: bool, kernels: Kernels = FUSED) -> tuple[Operation, ...]:
    """One decoder layer, ``moe`` or dense."""
    mlp = _experts(model, kernels) if moe else _mlp(model, model.ffn, kernels)
    return (*_norms(model, moe, kernels), *_attention(model, kernels), *mlp, *_residuals(model, kernels))


def mtp_layer(model: Model, kernels: Kernels = FUSED) -> tuple[Operation, ...]:
    """One multi-token-prediction layer: a decoder layer of the last layer's kind, two norms, a projection, a norm.

    Its embedding and head are shared with the main model (DeepSeek-V3, section 2.2).
    """
    return (*mtp_joint(model), *decoder_layer(model, model.is_moe_layer(model.layers - 1), kernels))


def mtp_joint(model: Model) -> tuple[Operation, ...]:
    """What joins a multi-token-prediction layer to the model: its own norms, and the projection of both inputs."""
    hidden = model.hidden
    norms = [_norm(model, f"mtp.{name}", hidden) for name in ("embedding_norm", "hidden_norm", "final_norm")]
    return (*norms, _linear("mtp.projection", 2 * hidden, hidden, saves="sequence"))


def _drops(probability: float) -> bool:
    return probability > 0


def _norm(
    model: Model,
    name: str,
    size: int,
    cut: Cut = "sequence",
    kernels: Kernels = FUSED,
    times: int = 1,
    recompute: str = "",
) -> Operation:
    """Keeps its input and, for the next linear's weight gradient, its output; unfused ones keep fp32 copies.

    ``times``: of so many heads each is normed by the same weight.
    """
    wide = times * size
    copies = () if kernels.norm else (Tensor(6 * wide, cut, recompute),)
    output = Tensor(kernels.input_bytes * wide, "gathered" if cut == "sequence" else cut, recompute)
    kept = (Tensor(2 * wide, cut), *copies, output)
    moved = (Tensor((4 if kernels.norm else 34) * wide, cut),)
    weights = [Weight(f"{name}.weight", size, "replicated")]
    if model.norm == "layernorm":
        weights.append(Weight(f"{name}.bias", size, "replicated"))
    return Operation(name, () if model.norm == "layernorm_nonparametric" else tuple(weights), kept, moved)


def _norms(model: Model, moe: bool, kernels: Kernels) -> Iterator[Operation]:
    """The norms around attention and MLP.

    Transformer Engine joins a norm to the linear behind it; only before latent attention and experts is it a module of
    its own, which selective recomputation can reach (megatron/core/transformer/transformer_layer.py:453, :501).
    """

    def own(alone: bool) -> str:
        return "layernorm" if alone or not kernels.joined else ""

    yield _norm(model, "attention.norm", model.hidden, kernels=kernels, recompute=own(model.mla is not None))
    if not (model.parallel_residual and model.shared_parallel_norm):
        yield _norm(model, "mlp.norm", model.hidden, kernels=kernels, recompute=own(moe))
    if model.norm_placement == "sandwich":
        yield _norm(model, "attention.output_norm", model.hidden, kernels=kernels)
        yield _norm(model, "mlp.output_norm", model.hidden, kernels=kernels)


def _residuals(model: Model, kernels: Kernels) -> Iterator[Operation]:
    """Two additions (bias and dropout fused into them); dropout keeps its mask, one byte an element.

    Unfused ones keep three 16-bit copies (inferred from which runs of Hagemann et al. 2023 ran out of memory).
    """
    mask = (Tensor(2 * model.hidden, "sequence"),) if _drops(model.hidden_dropout) else ()
    copies = () if kernels.residual else (Tensor(6 * model.hidden, "sequence"),)
    moved = (Tensor(12 * model.hidden, "sequence"), *mask, *copies)
    yield Operation("residual", saved=(*mask, *copies), moved=moved, kernels=2)


def _linear(
    name: str,
    inputs: int,
    outputs: int,
    shard: Shard = "tp",
    bias: bool = False,
    row: bool = False,
    saves: Cut | None = None,
) -> Operation:
    """A linear layer; ``saves`` its input, cut so, where no other operation does.

    The bias of a row-parallel one is added after the reduction, hence replicated.
    """
    weights = [Weight(f"{name}.weight", inputs * outputs, shard)]
    if bias:
        weights.append(Weight(f"{name}.bias", outputs, "replicated" if row else shard))
    wide: tuple[Cut, Cut] = ("replicated", "replicated")
    if shard == "tp":
        wide = ("tp", "replicated") if row else ("replicated", "tp")
    region: Literal["", "enter", "leave"] = "" if shard != "tp" else "leave" if row else "enter"
    saved = (Tensor(2 * inputs, saves),) if saves else ()
    moved = (Tensor(2 * inputs, wide[0]), Tensor(2 * outputs, wide[1]))
    return Operation(name, tuple(weights), saved, moved, region=region)


def _attention(model: Model, kernels: Kernels) -> Iterator[Operation]:
    if model.mla is not None:
        yield from _latent_attention(model, kernels)
        return
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield _linear("attention.qkv", model.hidden, queries + 2 * keys, bias=model.linear_bias or model.qkv_bias)
    if model.qk_norm != "none":
        for name, heads in (("query", model.heads), ("key", model.kv_heads)):
            size, times = (heads * model.head_dim, 1) if model.qk_norm == "full" else (model.head_dim, heads)
            yield _norm(model, f"attention.{name}_norm", size, "tp", times=times)
    yield _core(model, queries + 2 * keys, queries, 2 * queries, kernels)
    yield _linear("attention.output", queries, model.hidden, bias=model.linear_bias, row=True)


def _core(model: Model, inputs: int, outputs: int, scores: int, kernels: Kernels) -> Operation:
    """Rope and the attention itself: keeps query, key, value and its output, and the scores where not flash.

    Unfused attention keeps the probabilities (2 bytes), and with dropout its mask (1) and what it left (2):
    Korthikanti et al. 2022, section 4.1. A soft cap keeps its tanh (2).
    """
    # with latent attention, they can be projected up again (megatron/core/transformer/multi_latent_attention.py)
    saved = [Tensor(2 * inputs, "tp", "mla_up_proj" if model.mla else ""), Tensor(2 * outputs, "tp")]
    if kernels.eight_bit:  # the projection keeps its own copy of the output
        saved.append(Tensor(outputs, "tp"))
    rope = 4 * inputs if model.positions == "rope" else 0
    moved = [Tensor(2 * inputs + 2 * outputs + rope, "tp")]
    if kernels.flash:
        saved.append(Tensor(4 * model.heads, "tp", "core_attn"))
    else:
        dropout = 3 if _drops(model.attention_dropout) else 0
        capped = model.attention_softcap is not None
        saved.append(Tensor((2 + dropout + 2 * capped) * model.heads, "tp", "core_attn", squared=True))
        moved.append(Tensor((8 + 5 * (dropout > 0) + 12 * capped) * model.heads, "tp", squared=True))
    count = 2 if kernels.flash else 5
    return Operation("attention.core", saved=tuple(saved), moved=tuple(moved), scores=scores, kernels=count)


def _latent_attention(model: Model, kernels: Kernels) -> Iterator[Operation]:
    mla = model.mla
    assert mla is not None
    queries = model.heads * (mla.qk_nope_dim + mla.qk_rope_dim)
    if mla.q_lora_rank is None:
        yield _linear("attention.query", model.hidden, queries)
    else:
        yield _linear("attention.query_down", model.hidden, mla.q_lora_rank, "replicated")
        yield _norm(model, "attention.query_norm", mla.q_lora_rank)
        yield _linear("attention.query_up", mla.q_lora_rank, queries)
    yield _linear("attention.kv_down", model.hidden, mla.kv_lora_rank + mla.qk_rope_dim, "replicated")
    yield _norm(model, "attention.kv_norm", mla.kv_lora_rank)
    yield _linear("attention.kv_up", mla.kv_lora_rank, model.heads * (mla.qk_nope_dim + mla.v_dim))
    values = model.heads * mla.v_dim
    yield _core(model, 2 * queries + values, values, queries + values, kernels)
    yield _linear("attention.output", values, model.hidden, row=True)


def _mlp(model: Model, ffn: int, kernels: Kernels, name: str = "mlp") -> Iterator[Operation]:
    up = ffn * (2 if model.gated else 1)
    yield _linear(f"{name}.up", model.hidden, up, bias=model.linear_bias)
    weights = (Weight(f"{name}.activation.alpha", 2, "replicated"),) if model.activation == "xielu" else ()
    yield _activation(model, f"{name}.activation", ffn, weights, kernels)  # xielu: two learned scalars (2411.13010)
    yield _linear(f"{name}.down", ffn, model.hidden, bias=model.linear_bias, row=True)


def _activation(
    model: Model, name: str, ffn: int, weights: tuple[Weight, ...], kernels: Kernels, module: str = "mlp"
) -> Operation:
    """Keeps what the up-projection gave and, for the down-projection, its own output.

    Megatron and Transformer Engine fuse the gate with SiLU, not with GELU's tanh approximation.
    """
    up = ffn * (2 if model.gated else 1)
    fused = kernels.activation and model.activation != "geglu_tanh"
    between = 2 * ffn if model.gated and not fused else 0
    own = f"{module} {'moe_act' if module == 'moe' else 'act'}"
    second = (Tensor(2 * ffn, "tp", f"{module} second_matmul"),) if model.gated else ()
    saved = (Tensor(2 * ffn + between, "tp", module), *second, Tensor(kernels.input_bytes * ffn, "tp", own))
    return Operation(name, weights, saved, (Tensor(2 * up + 2 * ffn + 2 * between, "tp"),))


def _experts(model: Model, kernels: Kernels) -> Iterator[Operation]:
    """Routing, the experts on the tokens sent to them, and the shared ones on every token."""
    moe = model.moe
    assert moe is not None
    k, hidden = moe.topk, model.hidden
    routed = Tensor(2 * k * hidden, "routed", "moe")
    kept = Tensor(kernels.input_bytes * k * hidden, "routed", "moe")
    logits = (Tensor(8 * moe.experts, "sequence", "moe"),)
    yield Operation("router", (Weight("router.weight", moe.experts * hidden, "replicated"),), logits, logits, kernels=6)
    columns = moe.ffn * (2 if model.gated else 1)
    yield Operation("dispatch", saved=(), moved=(Tensor(4 * k * hidden, "routed"),), region="dispatch", kernels=6)
    up, down = (
        Weight("experts.up", hidden * columns, "expert", moe.experts),
        Weight("experts.down", moe.ffn * hidden, "expert", moe.experts),
    )
    ffn_in, ffn_out = Tensor(2 * k * columns, "tp"), Tensor(2 * k * moe.ffn, "tp")
    yield Operation("experts.up", (up,), (kept,), (routed, ffn_in), topk=k)
    yield _activation(model, "experts.activation", k * moe.ffn, (), kernels, "moe")
    yield Operation("experts.down", (down,), (), (ffn_out, routed), topk=k)
    yield Operation("combine", saved=(routed,), moved=(Tensor(4 * k * hidden, "routed"),), region="combine", kernels=4)
    if moe.shared_ffn:
        yield from _mlp(model, moe.shared_ffn, kernels, "shared_experts")
    if moe.shared_gate:
        yield Operation("shared_experts.gate", (Weight("shared_experts.gate", hidden, "replicated"),))
