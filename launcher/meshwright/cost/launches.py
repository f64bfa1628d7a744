"""What the host does for an operation beside starting its kernels, in operations' worth of its time."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.cost.counts import recomputed, regions
from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number
from meshwright.model.operations import Operation
from meshwright.model.work import is_matrix

__all__ = ["CHECKPOINT", "COUNTED", "LATENT", "beside", "by_weight", "is_captured", "repeated"]

ROUTING = 62.0
"""Host operations of a router beside its kernels, and of a dispatch or a combine by all-to-all: counts of tokens,
masks, splits, autograd. Settled on NVIDIA's rows and SimuMax's together with our own."""
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
    """Host operations beside its kernels: routing, and what latent attention splits and joins."""
    if o.name == "router":
        return 0.0 if s.framework.deals_tokens else ROUTING
    if o.name == "attention.kv_up":
        return LATENT + (not s.framework.kernels.rope) * ROTARY
    return (FLEX_ROUTING if s.framework.sends_once else ROUTING) if o.name in ("dispatch", "combine") else 0.0


def by_weight(s: Scene, o: Operation) -> Number:
    """What the host does for each weight by itself, and for each expert's, in operations' worth of its time."""
    experts = sum(w.copies // s.layout.ep for w in o.weights if w.shard == "expert")
    others = sum(w.shard != "expert" and is_matrix(w.name) for w in o.weights)
    return s.framework.expert_launches * experts + s.framework.gradient_launches * (experts + others)
