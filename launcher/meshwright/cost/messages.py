"""Bytes that one decoder layer hands to its groups for one micro-batch: what both traffic and time are counted from."""

from __future__ import annotations

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, where

__all__ = ["again", "exchanged", "expert", "hidden", "keys", "queries", "tensor"]


def hidden(s: Scene) -> Number:
    """The hidden states of one micro-batch, whole."""
    return s.width * s.layout.model.hidden * s.tokens


def tensor(s: Scene, moe: bool) -> tuple[tuple[Number, ...], tuple[Number, ...]]:
    """What is gathered on entering, and scattered on leaving, each pair of column- and row-parallel products.

    Routed experts' exchange is counted apart; a shared expert is an MLP like any other. With sequence parallelism,
    latent attention gathers what it has projected down (megatron/core/transformer/multi_latent_attention.py).
    """
    model, whole = s.layout.model, hidden(s)
    others = (whole,) if not moe or (model.moe is not None and model.moe.shared_ffn) else ()
    entering = whole
    if model.mla is not None:
        down = (model.mla.q_lora_rank or model.hidden) + model.mla.kv_lora_rank + model.mla.qk_rope_dim
        entering = where(s.layout.sp, whole * down / model.hidden, whole)
    return (entering, *others), (whole, *others)


def expert(s: Scene) -> Number:
    """Tokens that one rank sends to their experts."""
    moe = s.layout.model.moe
    return 0 if moe is None else moe.topk * hidden(s) / s.layout.tp


def keys(s: Scene) -> Number:
    """Keys and values of one rank's tokens."""
    model = s.layout.model
    wide = 2 * model.kv_heads * model.head_dim
    if model.mla is not None:
        wide = model.heads * (model.mla.qk_nope_dim + model.mla.qk_rope_dim + model.mla.v_dim)
    return s.width * s.tokens * wide / s.layout.tp


def queries(s: Scene) -> Number:
    """Queries and attention's output of one rank's tokens."""
    model = s.layout.model
    wide = 2 * model.head_dim
    if model.mla is not None:
        wide = model.mla.qk_nope_dim + model.mla.qk_rope_dim + model.mla.v_dim
    return s.width * s.tokens * model.heads * wide / s.layout.tp


def exchanged(s: Scene) -> bool:
    """Whether context parallelism exchanges heads for tokens instead of passing keys around."""
    return s.layout.spec.parallelism.cp_comm == "a2a"


def again(s: Scene, module: str = "") -> Number:
    """1 where recomputation repeats the communication: all of it where full, else that inside ``module``."""
    modules = s.layout.spec.parallelism.recompute_modules or ("core_attn",)
    return where(s.layout.recompute == 2, 1, (s.layout.recompute == 1) * (module in modules))
