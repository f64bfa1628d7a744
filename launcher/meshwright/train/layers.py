"""Layers that stock Megatron-core lacks, for its ``--spec meshwright.train.layers NAME``.

Megatron calls the named function with its GPTModelConfig and builds the decoder from the ModuleSpec it returns. The
tests give these layers the weights of transformers' models and compare the logits.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt import gpt_model
from megatron.core.transformer.spec_utils import ModuleSpec

from meshwright.train.attention import AlibiAttention, SoftcapAttention
from meshwright.train.blocks import NormedEmbedding, ParallelResidualLayer, SandwichLayer, capped_logits, gelu_tanh

__all__ = ["alibi", "alibi_embedding_norm", "amend", "gemma2", "install", "parallel_residual"]


def parallel_residual(config: Any, vp_stage: int | None = None) -> ModuleSpec:
    """Attention and MLP read the same residual, each behind a norm of its own (GPT-NeoX, Falcon 180B)."""
    return _specification(config, vp_stage, ("parallel_residual",))


def alibi(config: Any, vp_stage: int | None = None) -> ModuleSpec:
    """Linear biases on attention scores instead of positions (arXiv:2108.12409)."""
    return _specification(config, vp_stage, ("alibi",))


def alibi_embedding_norm(config: Any, vp_stage: int | None = None) -> ModuleSpec:
    """ALiBi, and a norm behind the embedding (BLOOM)."""
    return _specification(config, vp_stage, ("alibi", "embedding_norm"))


def gemma2(config: Any, vp_stage: int | None = None) -> ModuleSpec:
    """Soft-caps on attention scores and logits, GELU-gated MLPs, a norm around each sub-layer (arXiv:2408.00118)."""
    config.transformer.activation_func = gelu_tanh  # the flag, --swiglu, says that it is gated
    return _specification(config, vp_stage, ("attention_softcap", "final_softcap", "geglu_tanh", "sandwich_norm"))


def _specification(config: Any, vp_stage: int | None, parts: tuple[str, ...]) -> ModuleSpec:
    from megatron.training.models.gpt import default_layer_spec

    layer = default_layer_spec(config, vp_stage)
    install(parts)
    amend(layer, parts)
    return layer


LAYERS = {"parallel_residual": ParallelResidualLayer, "sandwich_norm": SandwichLayer}
ATTENTIONS = {"alibi": AlibiAttention, "attention_softcap": SoftcapAttention}


def amend(layer: ModuleSpec, parts: tuple[str, ...]) -> None:
    """Put the parts that belong to a layer into Megatron's own specification of it."""
    for part in parts:
        if part in LAYERS:
            layer.module = LAYERS[part]
        if part in ATTENTIONS:
            layer.submodules.self_attention.submodules.core_attention = ATTENTIONS[part]


def install(parts: tuple[str, ...], norm: Any = None) -> None:
    """Make GPTModel build what a ModuleSpec of the decoder does not hold.

    ``norm`` builds the norms that the parts add; None: as the others are.
    """
    NormedEmbedding.norm = SandwichLayer.norm = norm
    if "embedding_norm" in parts:
        gpt_model.LanguageModelEmbedding = NormedEmbedding
    if "final_softcap" in parts:
        gpt_model.GPTModel._scale_logits = capped_logits
