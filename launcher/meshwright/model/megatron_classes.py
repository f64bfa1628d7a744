"""Which of Megatron-core's model classes builds a model: GPTModel, or HybridModel with its pattern of layers."""

from __future__ import annotations

from meshwright.model.kinds import ahead_kinds, kinds, layer_kinds
from meshwright.model.layers.part import NONE
from meshwright.spec.backend import MegatronOptions
from meshwright.spec.model import Model

__all__ = ["HYBRID_MIXERS", "is_hybrid", "needs_hybrid", "predicts_in_bf16", "turns_at_once"]

HYBRID_MIXERS = ("attention", "latent_attention", "sparse_attention", "delta_net", "mamba")
"""Mixers that HybridModel builds (megatron/core/models/hybrid/hybrid_layer_specs.py); windows are GPTModel's."""

_VARIANTS = ("delta_net", "sparse_attention")


def needs_hybrid(model: Model) -> bool:
    """Whether GPTModel cannot say it: a layer of one part alone, or Mamba, or some layers with an indexer.

    Nor has it multi-token prediction behind a variant of attention (megatron/core/models/gpt/gpt_layer_specs.py:572),
    or of other layers than the last one.
    """
    if model.measured is not None:
        return False
    there = kinds(model)
    mixers = {kind.mixer for kind in there}
    alone = any(NONE in (kind.mixer, kind.ffn) for kind in there)
    some = "sparse_attention" in mixers and len(mixers) > 1
    if alone or "mamba" in mixers or some:
        return True
    return model.mtp > 0 and (not mixers.isdisjoint(_VARIANTS) or ahead_kinds(model) != layer_kinds(model)[-1:])


def is_hybrid(model: Model, options: MegatronOptions) -> bool:
    """Whether HybridModel builds ``model``: chosen, or where only it can.

    GPTModel is the default where both can: it is what published runs used, and more of Megatron's options work with it.
    """
    return options.model == "hybrid" or (options.model == "auto" and needs_hybrid(model))


def predicts_in_bf16(model: Model, options: MegatronOptions, precision: str) -> bool:
    """Whether multi-token prediction stays in bf16 by itself: ``GPTModel`` does not quantize it to 4 bits.

    megatron-core 0.19.2 core/transformer/multi_token_prediction.py:1181; ``HybridModel``'s stack does so itself
    (core/models/hybrid/hybrid_block.py:337).
    """
    return precision == "nvfp4" and not is_hybrid(model, options)


def turns_at_once(model: Model) -> bool:
    """Whether queries and keys are turned by one kernel, which Megatron has not for all rotary positions.

    Latent attention's takes YaRN alone (transformer_config.py:2967), and nothing beside an indexer (:2838); Transformer
    Engine's, which other attention takes, does not scale as YaRN does (rope_utils.py:303). Without such positions there
    is nothing to turn.
    """
    if model.positions != "rope":
        return True
    scaling = model.rope.scaling
    stretched = scaling is not None and scaling.kind == "yarn"
    return model.indexer is None and (model.mla is not None) == stretched
