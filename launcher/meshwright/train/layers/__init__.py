"""Layers that stock Megatron-core lacks, for its ``--spec meshwright.train.layers NAME``.

NAME says which parts, as ``model.megatron_parts`` writes it: Megatron imports the function of that name, calls it with
its GPTModelConfig, and builds the decoder from what it returns. The tests give these layers the weights of
transformers' models and compare the logits.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.models.gpt import gpt_model
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

from meshwright.model.megatron_parts import Parts, read_name
from meshwright.train import routers
from meshwright.train.activations import ACTIVATIONS
from meshwright.train.attention import AlibiAttention, SoftcapAttention
from meshwright.train.blocks import Layer
from meshwright.train.embedding import Embedding
from meshwright.train.latent import with_plain_queries
from meshwright.train.mixers import symbols, with_mixers
from meshwright.train.norms import BareNorm, FullNorm, as_the_others, default_norm
from meshwright.train.rotary import rotaries

__all__ = ["amend", "install"]


def __getattr__(name: str) -> Any:
    """The specification of that name. Megatron asks for it by ``__import__`` and then reads ``vars`` of this module."""
    parts = read_name(name)
    if parts is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = partial(_specification, parts)
    return globals()[name]


def _specification(parts: Parts, config: Any, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """The decoder's layers on one stage, each with ``parts``."""
    from megatron.training.models.gpt import default_layer_spec

    layers = default_layer_spec(config, vp_stage)
    if not isinstance(layers, TransformerBlockSubmodules):
        count = get_num_layers_to_build(config.transformer, vp_stage=vp_stage)
        layers = TransformerBlockSubmodules([layers] * count, layer_norm=default_norm(config.transformer))
    if parts.get("activation") in ACTIVATIONS:
        config.transformer.activation_func = ACTIVATIONS[str(parts["activation"])]
    if symbols(parts):  # layers hold different weights
        config.transformer.hetereogenous_dist_checkpoint = True
    install(parts)
    amend(layers, parts)
    return layers


def amend(block: TransformerBlockSubmodules, parts: Parts, norm: Any = None) -> None:
    """Put the parts that belong to layers into Megatron's own specification of them, and of the norm behind them.

    ``norm`` builds the norms that the parts add; None: as the others are.
    """
    bare = _bare(parts)
    for layer in {id(layer): layer for layer in block.layer_specs}.values():
        _amend_layer(layer, parts, bare or norm)
    if bare:
        block.layer_norm = bare
    if parts.get("norms") == "post":  # each layer ends with one
        block.layer_norm = None


def _bare(parts: Parts) -> Any:
    return partial(BareNorm, kind=str(parts["norm"])) if "norm" in parts else None


ATTENTIONS = {"alibi": AlibiAttention, "attention_softcap": SoftcapAttention}


def _amend_layer(layer: ModuleSpec, parts: Parts, norm: Any) -> None:
    layer.module, layer.params = Layer, {**layer.params, "parts": parts, "norm": norm}
    attention = layer.submodules.self_attention.submodules
    for part in ATTENTIONS.keys() & parts.keys():
        attention.core_attention = partial(ATTENTIONS[part], part=parts[part])
    if parts.get("qk_norm") == "full":
        attention.q_layernorm = partial(FullNorm, heads="num_attention_heads")
        attention.k_layernorm = partial(FullNorm, heads="num_query_groups")
    if "norm" in parts:
        _set_norms(layer.submodules, norm, norm)
    if parts.get("norms") == "carried":
        _set_norms(layer.submodules, norm or as_the_others, norm or as_the_others)
    if parts.get("norms") in ("output", "post"):
        _set_norms(layer.submodules, IdentityOp, IdentityOp)
    if parts.get("parallel_residual") == "one_norm":
        _set_norms(layer.submodules, norm or as_the_others, IdentityOp)
    if "plain_queries" in parts:
        with_plain_queries(layer)
    if "attention_bias" in parts:
        attention.linear_qkv = partial(_without_bias, attention.linear_qkv)
    if parts.get("attention_bias") == "none":
        attention.linear_proj = partial(_without_bias, attention.linear_proj)
    if symbols(parts):
        with_mixers(layer, parts, norm, _unfuse)


def _without_bias(build: Any, *args: Any, bias: bool = True, **kwargs: Any) -> Any:
    return build(*args, bias=False, **kwargs)


def _set_norms(layer: Any, before_attention: Any, before_mlp: Any) -> None:
    """Other norms before the sub-layers, whose first linear layers then have none inside."""
    layer.input_layernorm, layer.pre_mlp_layernorm = before_attention, before_mlp
    _unfuse(layer.self_attention.submodules, "linear_qkv")
    _unfuse(getattr(layer.mlp, "keywords", {}).get("submodules"), "linear_fc1")
    layer.sharded_state_dict_keys_map = {}


def _unfuse(submodules: Any, name: str) -> None:
    """Transformer Engine's linear layer without the norm before it."""
    if "LayerNorm" in getattr(getattr(submodules, name, None), "__name__", ""):
        from megatron.core.extensions.transformer_engine import TEColumnParallelLinear

        setattr(submodules, name, TEColumnParallelLinear)


def install(parts: Parts, norm: Any = None) -> None:
    """Make GPTModel build what a specification of the decoder does not hold. ``norm``: as for ``amend``."""
    Embedding.parts, Embedding.norm = parts, _bare(parts) or norm
    if {"embedding_norm", "embedding_scale", "positions"} & parts.keys():
        gpt_model.LanguageModelEmbedding = Embedding
    if "final_softcap" in parts:
        gpt_model.GPTModel._scale_logits = _capped_logits(float(parts["final_softcap"]))
    if {"local_base", "llama3_stretch"} & parts.keys():
        gpt_model.RotaryEmbedding, gpt_model.YarnRotaryEmbedding = rotaries(parts)
    if "router_bias" in parts:
        routers.install(str(parts["router_bias"]))
    if "output_bias" in parts:
        gpt_model.GPTModel.__init__ = _with_output_bias(gpt_model.GPTModel.__init__)
    if parts.get("qk_norm") == "full":
        gpt_model.GPTModel.__init__ = _with_norms_of_its_heads(gpt_model.GPTModel.__init__)


def _with_norms_of_its_heads(build: Any) -> Any:
    """GPTModel's constructor where each tensor-parallel rank has its own part of the norms on queries and keys.

    ``qk_layernorm`` builds them; later it says that ranks hold the same norms and sums their gradients
    (core/distributed/finalize_model_grads.py:453).
    """

    def made(model: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        config.qk_layernorm = True
        build(model, config, *args, **kwargs)
        config.qk_layernorm = False

    return made


def _with_output_bias(build: Any) -> Any:
    """GPTModel's constructor, with a bias of the output layer, cut as the vocabulary is."""

    def made(model: Any, *args: Any, **kwargs: Any) -> None:
        build(model, *args, **kwargs)
        if model.post_process:
            size = model.output_layer.output_size_per_partition
            bias = torch.nn.Parameter(torch.zeros(size, dtype=model.config.params_dtype))
            set_tensor_model_parallel_attributes(bias, is_parallel=True, dim=0, stride=1)
            model.output_layer.bias = bias

    return made


def _capped_logits(cap: float) -> Any:
    """GPTModel's scaling of its logits, then a soft cap."""

    def scale(model: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = LanguageModule._scale_logits(model, logits)
        return cap * torch.tanh(logits / cap)

    return scale
