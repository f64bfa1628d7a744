"""Attention with heads of queries, keys and values (MHA, GQA, MQA), over all tokens before or the last few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.model.layers.part import Exchange, Part
from meshwright.model.layers.shared import drops, linear, norm
from meshwright.model.operation import Kernels, Operation, Shard, Tensor, Weight
from meshwright.spec.model import Model

__all__ = ["ATTENTION", "WINDOWED_ATTENTION", "attention", "core"]


def attention(model: Model, kernels: Kernels) -> Iterator[Operation]:
    """Projection of queries, keys and values, their norms, attention itself, its gate and the projection back."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    gates = queries if model.attention_gate else 0
    bias = model.qkv_bias or (model.linear_bias and model.attention_bias == "all")
    yield linear("attention.qkv", model.hidden, queries + gates + 2 * keys, bias=bias, behind_norm=kernels.joined)
    if model.qk_norm in ("head", "rotated", "full"):
        for name, heads in (("query", model.heads), ("key", model.kv_heads)):
            full = model.qk_norm == "full"  # its weights go with the heads
            size, times = (heads * model.head_dim, 1) if full else (model.head_dim, heads)
            shard: Shard = "tp" if full else "replicated"
            yield norm(model, f"attention.{name}_norm", size, "tp", kernels, times, shard=shard, multiplied=False)
    if model.positions == "rope" and not kernels.rope:
        yield _turning(queries + keys)
    yield core(model, (queries, keys, keys), queries, 2 * queries, kernels, queries + gates + keys)
    if gates:  # keeps the gate and what it multiplies
        yield Operation("attention.gate", saved=(Tensor(4 * queries, "tp"),), moved=(Tensor(6 * queries, "tp"),))
    last = model.linear_bias and model.attention_bias != "none"
    yield linear("attention.output", queries, model.hidden, bias=last, row=True)


def _windowed(model: Model, kernels: Kernels) -> Iterator[Operation]:
    for operation in attention(model, kernels):
        windowed = operation.name == "attention.core"  # by name: of rows alike in structure the scores are an array
        yield replace(operation, window=model.sliding_window) if windowed else operation


def _turning(channels: int) -> Operation:
    """Rotary positions kernel by kernel, of so many channels of queries and keys.

    20 bytes of each forward and 28 backward, counted as torch dispatches transformers' ``apply_rotary_pos_emb``;
    Megatron's own moves a quarter more (core/models/common/embeddings/rope_utils.py).
    """
    moved, returned = Tensor(20 * channels, "tp"), Tensor((28 - 2 * 20) * channels, "tp")
    return Operation("attention.positions", moved=(moved,), returned=(returned,), kernels=10)


def core(
    model: Model, read: tuple[int, ...], outputs: int, scores: int, kernels: Kernels, beside: int = 0
) -> Operation:
    """Rope and the attention itself: keeps query, key, value and its output, and the scores where not flash.

    ``read``: channels of query, key and value. ``beside``: channels of the projection that values are a part of. Where
    attention is recomputed, what it begins with are turned queries and keys, and that part of the projection, which
    keeps the whole.
    Unfused attention keeps the probabilities (2 bytes), and with dropout its mask (1) and what it left (2):
    Korthikanti et al. 2022, section 4.1. A soft cap keeps its tanh (2).
    """
    repeated, inputs = kernels.casts and not kernels.flash and model.mla is None, sum(read)
    entering = 3 * (outputs,) if repeated else read
    # with latent attention, they can be projected up again (megatron/core/transformer/multi_latent_attention.py)
    again = "mla_up_proj" if model.mla else ""
    saved = [Tensor(2 * sum(entering), "tp", again, widths=entering), Tensor(2 * outputs, "tp", given=True)]
    if kernels.eight_bit:  # the projection keeps its own copy of the output
        elements = kernels.input_width("attention.output", outputs)
        saved.append(Tensor(kernels.input_bytes("attention.output") * outputs, "tp", given=True, widths=(elements,)))
    turned = inputs if model.mla is None else model.heads * model.mla.qk_rope_dim  # of keys, one head for all
    rope = 4 * turned if model.positions == "rope" and (kernels.rope or model.mla) else 0
    moved = [Tensor(2 * inputs + 2 * outputs + rope, "tp")]
    if kernels.flash:
        saved.append(Tensor(4 * model.heads, "tp", "core_attn", widths=(model.heads,)))
    else:
        dropout = 3 if drops(model.attention_dropout) else 0
        capped = model.attention_softcap is not None
        kept = 2 + dropout + 2 * capped + 4 * kernels.casts
        saved.append(Tensor(kept * model.heads, "tp", "core_attn", squared=True))
        moved.append(Tensor((8 + 5 * (dropout > 0) + 12 * capped) * model.heads, "tp", squared=True))
    if model.positions == "rope" and model.mla is None:
        saved.append(Tensor(2 * beside, "tp", entering="core_attn"))
    count = 2 if kernels.flash else 5
    sinks = (Weight("attention.sinks", model.heads, "tp"),) if model.attention_sinks else ()
    return Operation("attention.core", sinks, saved=tuple(saved), moved=tuple(moved), scores=scores, kernels=count)


def _exchange(model: Model) -> Exchange:
    keys, queries = 2 * model.kv_heads * model.head_dim, 2 * model.heads * model.head_dim
    return Exchange(keys, queries, model.heads * model.head_dim)


ATTENTION = Part(symbol="*", operations=attention, norm="attention.norm", exchange=_exchange)
WINDOWED_ATTENTION = replace(ATTENTION, symbol="W", options=("sliding_window",), operations=_windowed)
