"""Multi-head latent attention (DeepSeek-V2, section 2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.model.layers.attention import core
from meshwright.model.layers.part import Exchange, Part
from meshwright.model.layers.shared import linear, norm
from meshwright.model.operation import Kernels, Operation, Tensor
from meshwright.spec.model import Mla, Model

__all__ = ["LATENT_ATTENTION", "compressed", "latent", "projections"]


def _latent_attention(model: Model, kernels: Kernels) -> Iterator[Operation]:
    mla = latent(model)
    queries, values = model.heads * (mla.qk_nope_dim + mla.qk_rope_dim), model.heads * mla.v_dim
    yield from projections(model, kernels)
    yield core(model, (queries, queries, values), values, queries + values, kernels)
    yield linear("attention.output", values, model.hidden, row=True)


def projections(model: Model, kernels: Kernels) -> Iterator[Operation]:
    """Queries, keys and values, compressed and up again."""
    mla = latent(model)
    queries = model.heads * (mla.qk_nope_dim + mla.qk_rope_dim)
    if mla.q_lora_rank is None:
        yield linear("attention.query", model.hidden, queries)
    else:
        yield linear("attention.query_down", model.hidden, mla.q_lora_rank, "replicated")
        yield norm(model, "attention.query_norm", mla.q_lora_rank)
        yield linear("attention.query_up", mla.q_lora_rank, queries)
    yield linear("attention.kv_down", model.hidden, mla.kv_lora_rank + mla.qk_rope_dim, "replicated")
    yield norm(model, "attention.kv_norm", mla.kv_lora_rank)
    up = linear("attention.kv_up", mla.kv_lora_rank, model.heads * (mla.qk_nope_dim + mla.v_dim))
    positions = Tensor(2 * mla.qk_rope_dim, "replicated", entering="mla_up_proj")  # of keys, before they are turned
    forward, backward = _joined(model, mla, kernels)
    beside = Tensor(backward - 2 * forward, "tp")
    yield replace(up, saved=(positions,), moved=(*up.moved, Tensor(forward, "tp")), returned=(beside,))


def _joined(model: Model, mla: Mla, kernels: Kernels) -> tuple[int, int]:
    """Bytes moved, forward and backward, to make queries, keys and values of what was projected up.

    With a kernel for it, keys and values are read and written (megatron/core/fusions/fused_mla_yarn_rope_apply.py);
    turned queries are counted with attention. Without, queries and keys are joined and values made contiguous, and
    turning takes 29 bytes a channel (core/models/common/embeddings/rope_utils.py); the backward's 30 and what is summed
    over heads: counted as torch dispatches them.
    """
    content, turned, values = mla.qk_nope_dim, mla.qk_rope_dim, mla.v_dim
    each = 4 * (content + values) + 2 * turned
    if kernels.rope:
        return model.heads * each, model.heads * each
    forward = 8 * content + 31 * turned + 4 * values
    return model.heads * forward, model.heads * (8 * content + 38 * turned + 4 * values)


def latent(model: Model) -> Mla:
    """The widths of latent attention, which the model has."""
    assert model.mla is not None
    return model.mla


def compressed(model: Model) -> int:
    """With sequence parallelism, what was projected down (megatron/core/transformer/multi_latent_attention.py)."""
    mla = latent(model)
    return (mla.q_lora_rank or model.hidden) + mla.kv_lora_rank + mla.qk_rope_dim


def _exchange(model: Model) -> Exchange:
    mla = latent(model)
    each = mla.qk_nope_dim + mla.qk_rope_dim + mla.v_dim
    return Exchange(model.heads * each, model.heads * each, model.heads * mla.v_dim)


LATENT_ATTENTION = Part(
    symbol="+",
    options=("mla",),
    operations=_latent_attention,
    norm="attention.norm",
    own_norm=True,
    gathered=compressed,
    exchange=_exchange,
)
