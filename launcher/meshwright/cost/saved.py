"""Bytes that a layer keeps of a micro-batch for its backward pass."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.cost import tiles
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.numbers import Number, where
from meshwright.model.layers import LayerKind, parts
from meshwright.model.operations import Operation, Tensor

__all__ = ["beside", "context_copies", "layer_input", "saved"]


def saved(s: Scene, operations: Sequence[Operation]) -> Number:
    """Bytes that one layer keeps of one micro-batch, under the layout's recomputation."""
    tensors = [(t, t.on_rank(s.degrees)) for o in operations for t in o.saved if not tiles.in_tiles(s, o)]
    sequence = s.layout.training.sequence
    freed = s.layout.spec.parallelism.recompute_modules or ("core_attn",)
    whole = [(size * sequence if t.squared else size, t) for t, size in tensors]
    none = sum(size for size, t in whole if not t.entering)
    kept = sum(size for size, t in whole if _stays(t, freed))
    chosen = where(s.layout.recompute == 1, kept, none)
    return s.tokens * (chosen + tiles.input_width(s, operations)) * s.width / 2


def _stays(t: Tensor, freed: Sequence[str]) -> bool:
    return t.entering in ("", *freed) and not any(m in freed for m in t.recompute.split())


def layer_input(s: Scene) -> Number:
    """Bytes of what enters a layer, of one micro-batch: all that full recomputation keeps of it."""
    return s.width * s.layout.model.hidden * s.tokens / s.degrees.sequence


def context_copies(s: Scene, kind: LayerKind) -> Number:
    """Attention's output on the other side of its exchange, where it is exchanged (SimuMax's four rows had it so).

    Keys that go round a ring leave the output where it is: what the ring keeps is what it returns
    (transformer_engine/pytorch/attention/dot_product_attention/context_parallel.py, ``AttnFuncWithCPAndKVP2P``), while
    gathered keys had it in two halves and whole (until 2.9 ``AttnFuncWithCPAndKVAllGather``).
    """
    exchanged = s.framework.exchanges_heads or s.layout.spec.parallelism.cp_comm != "p2p"
    width = sum(part.exchange(s.layout.model).output for part in parts(kind))
    return exchanged * (s.layout.cp > 1) * 2.0 * width * s.tokens / s.degrees.tp


_EXPERTS = ("router", "dispatch", "experts.", "combine", "shared_experts.", "mlp.")


def beside(s: Scene, load: Load) -> Number:
    """Two micro-batches side by side hold what attention keeps of one layer twice, before one is freed.

    Not where attention's backward runs before the other's experts (``ep_overlap_early_attn_memory_release``,
    megatron/core/models/common/model_chunk_schedule_plan.py:268). Inferred from that order.
    """
    if not s.layout.spec.parallelism.overlap_ep or s.layout.backend.megatron.experts.early_release:
        return 0 * load.layers
    mixers = (tuple(o for o in operations if not o.name.startswith(_EXPERTS)) for operations in s.layers)
    return load.largest(saved(s, operations) for operations in mixers)
