"""The one table of what a layer does: its operations and their weights.

Parameters per rank follow Transformer Engine's layers in Megatron-core: column- and row-parallel linears are cut
over ``tp``, routed experts over ``etp`` within an expert and ``ep`` between experts, norms and the router are
replicated, and
so are MLA's down-projections (``TELinear`` with ``parallel_mode="duplicated"``, megatron/core/transformer/
multi_latent_attention.py). All arithmetic is on integers or NumPy arrays of degrees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from meshwright.spec import Model

__all__ = ["Operation", "Weight", "decoder_layer", "embedding", "final_norm", "head", "mtp_layer", "parameters"]

Number = Any  # an int, or a NumPy array of them
Shard = Literal["tp", "expert", "replicated"]


@dataclass(frozen=True)
class Weight:
    """A parameter tensor: ``elements`` of the whole tensor, and how it is cut.

    ``expert`` means one of ``copies`` experts, each cut over etp and the experts dealt out over ep.
    """

    name: str
    elements: int
    shard: Shard
    copies: int = 1

    def on_rank(self, tp: Number, etp: Number, ep: Number) -> Number:
        """Elements of this tensor on one rank."""
        if self.shard == "tp":
            return self.elements // tp
        return self.elements // etp * (self.copies // ep) if self.shard == "expert" else self.elements * self.copies


@dataclass(frozen=True)
class Operation:
    """A named step of a layer with the weights it reads."""

    name: str
    weights: tuple[Weight, ...] = ()


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
    return (Operation("embedding", tuple(weights + [w for n in norm for w in n.weights])),)


def final_norm(model: Model) -> tuple[Operation, ...]:
    """The norm after the last decoder layer."""
    return (_norm(model, "final_norm", model.hidden),)


def head(model: Model, vocab: Number, shares_embedding: bool) -> tuple[Operation, ...]:
    """The output projection; it has no weight of its own where it ``shares_embedding`` on the same chunk."""
    weights = () if shares_embedding else (Weight("head", vocab * model.hidden, "tp"),)
    return (Operation("head", weights),)


def decoder_layer(model: Model, moe: bool) -> tuple[Operation, ...]:
    """One decoder layer, ``moe`` or dense."""
    return (*_norms(model), *_attention(model), *(_experts(model) if moe else _mlp(model, model.ffn)))


def mtp_layer(model: Model) -> tuple[Operation, ...]:
    """One multi-token-prediction layer: a decoder layer of the last layer's kind, two norms, a projection, a norm.

    Its embedding and head are shared with the main model (DeepSeek-V3, section 2.2).
    """
    hidden = model.hidden
    extra = [_norm(model, f"mtp.{name}", hidden) for name in ("embedding_norm", "hidden_norm", "final_norm")]
    projection = Operation("mtp.projection", (Weight("mtp.projection", 2 * hidden * hidden, "tp"),))
    return (*extra, projection, *decoder_layer(model, model.is_moe_layer(model.layers - 1)))


def _norm(model: Model, name: str, size: int) -> Operation:
    if model.norm == "layernorm_nonparametric":
        return Operation(name)
    weights = [Weight(f"{name}.weight", size, "replicated")]
    if model.norm == "layernorm":
        weights.append(Weight(f"{name}.bias", size, "replicated"))
    return Operation(name, tuple(weights))


def _norms(model: Model) -> Iterator[Operation]:
    """The norms around attention and MLP."""
    yield _norm(model, "attention.norm", model.hidden)
    if not (model.parallel_residual and model.shared_parallel_norm):
        yield _norm(model, "mlp.norm", model.hidden)
    if model.norm_placement == "sandwich":
        yield _norm(model, "attention.output_norm", model.hidden)
        yield _norm(model, "mlp.output_norm", model.hidden)


def _linear(
    name: str, inputs: int, outputs: int, shard: Shard = "tp", bias: bool = False, row: bool = False
) -> Operation:
    """A linear layer. The bias of a row-parallel one is added after the reduction, hence replicated."""
    weights = [Weight(f"{name}.weight", inputs * outputs, shard)]
    if bias:
        weights.append(Weight(f"{name}.bias", outputs, "replicated" if row else shard))
    return Operation(name, tuple(weights))


def _attention(model: Model) -> Iterator[Operation]:
    if model.mla is not None:
        yield from _latent_attention(model)
        return
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield _linear("attention.qkv", model.hidden, queries + 2 * keys, bias=model.linear_bias or model.qkv_bias)
    if model.qk_norm != "none":
        whole = model.qk_norm == "full"
        yield _norm(model, "attention.query_norm", queries if whole else model.head_dim)
        yield _norm(model, "attention.key_norm", keys if whole else model.head_dim)
    yield Operation("attention.core")
    yield _linear("attention.output", queries, model.hidden, bias=model.linear_bias, row=True)


def _latent_attention(model: Model) -> Iterator[Operation]:
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
    yield Operation("attention.core")
    yield _linear("attention.output", model.heads * mla.v_dim, model.hidden, row=True)


def _mlp(model: Model, ffn: int, name: str = "mlp") -> Iterator[Operation]:
    yield _linear(f"{name}.up", model.hidden, ffn * (2 if model.gated else 1), bias=model.linear_bias)
    if model.activation == "xielu":  # two learned scalars an MLP (arXiv 2411.13010)
        yield Operation(f"{name}.activation", (Weight(f"{name}.activation.alpha", 2, "replicated"),))
    yield _linear(f"{name}.down", ffn, model.hidden, bias=model.linear_bias, row=True)


def _experts(model: Model) -> Iterator[Operation]:
    moe = model.moe
    assert moe is not None
    yield Operation("router", (Weight("router.weight", moe.experts * model.hidden, "replicated"),))
    columns = moe.ffn * (2 if model.gated else 1)
    yield Operation("experts.up", (Weight("experts.up", model.hidden * columns, "expert", moe.experts),))
    yield Operation("experts.down", (Weight("experts.down", moe.ffn * model.hidden, "expert", moe.experts),))
    if moe.shared_ffn:
        yield from _mlp(model, moe.shared_ffn, "shared_experts")
    if moe.shared_gate:
        yield Operation("shared_experts.gate", (Weight("shared_experts.gate", model.hidden, "replicated"),))
