"""What the host does for an operation beside starting its kernels, in operations' worth of its time."""

from __future__ import annotations

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number
from meshwright.model.operations import Operation
from meshwright.model.work import is_matrix

__all__ = ["COUNTED", "by_weight", "routing"]

ROUTING = 62.0
"""Host operations of a router beside its kernels, and of a dispatch or a combine by all-to-all: counts of tokens,
masks, splits, autograd. Settled on NVIDIA's rows and SimuMax's together with our own."""
FLEX_ROUTING = 56.0
"""The same of a dispatch or a combine by DeepEP or HybridEP: step 4 of Megatron's log of DeepSeek V3 over step 3."""
COUNTED = ("dispatch", "experts.", "combine")
"""Operations whose sizes are counts of tokens: the host reads them back before it starts any of these
(megatron/core/transformer/moe/token_dispatcher.py, ``_maybe_dtoh_and_synchronize``; DeepEP and HybridEP, too)."""


def routing(s: Scene, o: Operation) -> float:
    """Host operations of a mixture's routing that are no kernels."""
    if o.name == "router":
        return ROUTING
    return (FLEX_ROUTING if s.framework.sends_once else ROUTING) if o.name in ("dispatch", "combine") else 0.0


def by_weight(s: Scene, o: Operation) -> Number:
    """What the host does for each weight by itself, and for each expert's, in operations' worth of its time."""
    experts = sum(w.copies // s.layout.ep for w in o.weights if w.shard == "expert")
    others = sum(w.shard != "expert" and is_matrix(w.name) for w in o.weights)
    return s.framework.expert_launches * experts + s.framework.gradient_launches * (experts + others)
