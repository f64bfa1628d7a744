"""Latent attention on a machine without a GPU: what compresses is whole on every rank, as Transformer Engine's is.

Behind Megatron's column-parallel layers, what heads share of a key's positions gets its gradient from the heads of its
own rank alone: their output is gathered by a function that splits on the way back and sums nothing
(megatron-core 0.19.2, core/transformer/multi_latent_attention.py:739, core/tensor_parallel/mappings.py:510).
"""

from __future__ import annotations

from typing import Any

from meshwright.train.whole import Whole

__all__ = ["install"]


def install() -> None:
    """Have Megatron's plain layers take ``Whole`` where its engine's layers take ``TELinear``."""
    from megatron.core.models.gpt import gpt_layer_specs
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.experimental_attention_variant import absorbed_mla
    from megatron.training.models import gpt

    multi_latent_attention.TELinear = absorbed_mla.TELinear = Whole
    gpt_layer_specs.get_gpt_layer_local_spec = gpt.get_gpt_layer_local_spec = _with_whole(
        gpt_layer_specs.get_gpt_layer_local_spec
    )


def _with_whole(specification: Any) -> Any:
    """A function of Megatron's that makes the specification of a layer, with such projections in it."""

    def made(*words: Any, **named: Any) -> Any:
        layer = specification(*words, **named)
        attention = layer.submodules.self_attention.submodules
        for name in ("linear_q_down_proj", "linear_kv_down_proj"):
            if hasattr(attention, name):
                setattr(attention, name, Whole)
        return layer

    return made
