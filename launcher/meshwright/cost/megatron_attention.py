"""Which attention Megatron's layers have, and what it does with its scores where no kernel joins it."""

from __future__ import annotations

from typing import Any

from meshwright.cost.numbers import where
from meshwright.rules import Layout

__all__ = ["own_layers", "scored", "unfused"]


def own_layers(layout: Layout) -> bool:
    """Whether layers are Megatron's own, not Transformer Engine's."""
    return layout.backend.megatron.transformer == "local"


def unfused(layout: Layout) -> bool:
    """Megatron's own layers have no other attention (core/transformer/dot_product_attention.py)."""
    asked = layout.backend.megatron.attention == "unfused" or layout.training.precision == "fp32"
    return asked or own_layers(layout)


def scored(layout: Layout) -> dict[str, Any]:
    """What unfused attention does with its scores.

    One kernel takes a multiple of four heads of at most 4,096 tokens in 16 bits (core/fusions/fused_softmax.py:238),
    and writes gradients over those it is given (apex csrc/megatron/scaled_upper_triang_masked_softmax_cuda.cu). In
    pieces, a mask is filled into a view of the scores, whose backward copies them (``CopySlices``).
    """
    r, length = layout, layout.training.sequence
    pieces = (r.training.precision == "fp32") | (length > 4096) | (r.micro_batch * r.model.heads // r.tp % 4 != 0)
    # core/transformer/dot_product_attention.py:184; with Transformer Engine's there is none (docs/functional_tests.md)
    buffer = 2.0 if own_layers(layout) else 0.0
    return {"softmax_in_pieces": pieces, "score_bytes": where(pieces, 8.0, 4.0), "score_buffer": buffer}
