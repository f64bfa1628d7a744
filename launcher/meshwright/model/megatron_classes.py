"""Which of Megatron-core's model classes builds a model: GPTModel, or HybridModel with its pattern of layers."""

from __future__ import annotations

from meshwright.model.kinds import kinds
from meshwright.model.layers.part import NONE
from meshwright.spec.backend import MegatronOptions
from meshwright.spec.model import Model

__all__ = ["HYBRID_MIXERS", "is_hybrid", "needs_hybrid"]

HYBRID_MIXERS = ("attention", "delta_net", "mamba")
"""Mixers that HybridModel builds as we mean them: its latent attention has no norms on what is compressed
(megatron/core/models/hybrid/hybrid_layer_specs.py), and windows are GPTModel's."""


def needs_hybrid(model: Model) -> bool:
    """Whether GPTModel cannot say it: a layer of one part alone, or Mamba."""
    return model.measured is None and any(
        NONE in (kind.mixer, kind.ffn) or kind.mixer == "mamba" for kind in kinds(model)
    )


def is_hybrid(model: Model, options: MegatronOptions) -> bool:
    """Whether HybridModel builds ``model``: chosen, or where only it can.

    GPTModel is the default where both can: it is what published runs used, and more of Megatron's options work with it.
    """
    return options.model == "hybrid" or (options.model == "auto" and needs_hybrid(model))
