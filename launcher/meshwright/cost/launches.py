"""What the host does for an operation beside starting its kernels, in operations' worth of its time."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.cost.counts import recomputed, regions
from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number
from meshwright.model.operations import Operation
from meshwright.model.work import is_matrix
from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Moe

__all__ = ["CHECKPOINT", "COUNTED", "LATENT", "beside", "by_weight", "is_captured", "repeated", "router"]


@dataclass(frozen=True)
class Calls:
    """Of a router: ``always``, and beside that for losses, other scores than a softmax or a bias, groups, a z-loss."""

    always: int
    losses: int
    scored: int
    grouped: int
    z_loss: int


ROUTING = 62.0
"""Host operations of a dispatch or a combine by all-to-all: counts of tokens, masks, splits, autograd. Settled on
NVIDIA's rows and SimuMax's together with our own."""
PADDED = 47.0
"""The same where experts are padded to a capacity: nothing is counted, cut by counts or copied to the host.

A dispatch and a combine make 49 calls of torch, with the router's that drop what is too much, else 53 and 11 that copy
counts (megatron-core 0.19.2 core/transformer/moe/token_dispatcher.py; ``tests/test_cost_host.py`` counts again)."""
ROUTER = {False: Calls(18, 22, 7, 12, 12), True: Calls(10, 13, 2, 0, 12)}
"""Calls of torch that a router makes, by whether Transformer Engine's kernels choose its experts; counted as torch
dispatches them (megatron-core 0.19.2, core/transformer/moe/router.py; ``tests/test_cost_host.py`` counts again)."""
LINEAR, LOW = 1.7, 2.7
"""Of a linear of Transformer Engine, host operations beside its product's, and more where that is in 8 or 4 bits.

Its forward in bf16 takes 99.7 us on a GB200's host and 90.5 on a GH200's, where torch's takes 37.1 and 33.2
(NVIDIA/TransformerEngine#2053); in 8 bits it takes more than twice that of bf16 (NVIDIA/TransformerEngine#761)."""
FLEX_ROUTING = 56.0
"""The same of a dispatch or a combine by DeepEP or HybridEP: step 4 of Megatron's log of DeepSeek V3 over step 3."""
CHECKPOINT = 20.0
"""Host operations of what starts a recomputed module again: random states, gradients switched off and on, its graph
(megatron/core/tensor_parallel/random.py ``CheckpointWithoutOutput``). Settled, with ``LATENT``, on step 5 of Megatron's
log of DeepSeek V3 over step 4, which recomputes the up-projection no more: 45 together; how they share is ours."""
LATENT = 23.0
"""Host operations of latent attention's up-projection beside its products: queries, keys and values are split,
turned, spread over heads and joined."""
ROTARY = 24.0
"""The same of rotary positions of queries and keys without a kernel for it
(megatron/core/models/common/embeddings/rope_utils.py ``_apply_rotary_pos_emb_bshd``)."""
COUNTED = ("dispatch", "experts.", "combine")
"""Operations whose sizes are counts of tokens: the host reads them back before it starts any of these
(megatron/core/transformer/moe/token_dispatcher.py, ``_maybe_dtoh_and_synchronize``; DeepEP and HybridEP, too)."""


def repeated(s: Scene, operations: Iterable[Operation], modules: tuple[str, ...] | None) -> float:
    """Host operations of a layer's backward that start again what is recomputed, beside those repeated."""
    names = [o.name for o in operations if recomputed(o, modules) and not is_captured(s, o)]
    return CHECKPOINT * regions(names, modules)


def is_captured(s: Scene, o: Operation) -> bool:
    """Whether the operation is started with a CUDA graph."""
    return s.framework.captures_all or o.name.startswith(s.framework.captured)


def beside(s: Scene, o: Operation) -> float:
    """Host operations beside its kernels: routing, linears' modules, and what latent attention splits and joins."""
    if o.name == "router":
        return 0.0 if s.framework.deals_tokens else router(_moe(s), s.framework.kernels.router)
    if o.name in ("dispatch", "combine"):
        return _exchange(s)
    latent = LATENT + (not s.framework.kernels.rope) * ROTARY if o.name == "attention.kv_up" else 0.0
    return latent + _linear(s, o)


def _exchange(s: Scene) -> float:
    """Of a dispatch or a combine."""
    if s.framework.sends_once:
        return FLEX_ROUTING
    return ROUTING if s.framework.reads_counts else PADDED


def router(moe: Moe, fused: bool) -> float:
    """Calls of torch in a router's forward."""
    calls = ROUTER[fused]
    scored, grouped = moe.score != "softmax" or moe.router_bias, moe.groups > 1
    more = (
        calls.losses * moe.has_auxiliary_loss,
        calls.scored * scored,
        calls.grouped * grouped,
        calls.z_loss * (moe.z_loss > 0),
    )
    return calls.always + sum(more)


def _moe(s: Scene) -> Moe:
    moe = s.layout.model.moe
    assert moe is not None
    return moe


def _linear(s: Scene, o: Operation) -> float:
    """Of a linear of Transformer Engine."""
    linears = sum(w.shard != "expert" and is_matrix(w.name) for w in o.weights)
    low = s.framework.casts is not None and any(o.casts)
    return linears * (LINEAR + LOW * low) if s.framework.kernels.joined else 0.0


def by_weight(s: Scene, o: Operation) -> Number:
    """What the host does for each weight by itself, and for each expert's, in operations' worth of its time."""
    experts = sum(w.copies // s.layout.ep for w in o.weights if w.shard == "expert")
    others = sum(w.shard != "expert" and is_matrix(w.name) for w in o.weights)
    return s.framework.expert_launches * experts + s.framework.gradient_launches * (experts + others)
