"""Mamba, delta nets, indexers, and HybridModel's pattern of layers, as flags and keyword arguments of Megatron-core.

A pattern's symbols are Megatron's own (``model.layers``); a layer of two parts is two of its layers. ``|`` ends what a
model chunk holds, and ``/`` precedes each layer of multi-token prediction
(megatron/core/models/hybrid/hybrid_layer_allocation.py). GPTModel takes delta nets, and indexers in all layers, as a
variant of attention instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from meshwright.emit._flags import flag, switch
from meshwright.layout.plan import Plan
from meshwright.model.kinds import ahead_kinds, kinds, layer_kinds
from meshwright.model.layers import LayerKind, parts
from meshwright.model.megatron_classes import is_hybrid
from meshwright.spec.model import Model

__all__ = ["hybrid", "hybrid_flags", "hybrid_kwargs", "hybrid_pattern", "layers_built"]

Kwargs = dict[str, Any]

KEY_NORM_EPSILON = 1e-6
"""Of the indexer's norm of keys (transformers, models/deepseek_v32; Megatron-Bridge, models/glm_moe_dsa)."""


def hybrid(plan: Plan) -> bool:
    """Whether HybridModel builds the plan's model."""
    return is_hybrid(plan.spec.model, plan.spec.backend.megatron)


def hybrid_pattern(plan: Plan) -> str:
    """The layers of every chunk in the order of the model, chunks apart; then those of multi-token prediction."""
    model, vpp = plan.spec.model, plan.spec.parallelism.vpp
    all_kinds = layer_kinds(model)
    chunks = (stage.chunks[chunk] for chunk in range(vpp) for stage in plan.stages)
    segments = (_symbols(all_kinds[chunk.first : chunk.first + chunk.layers]) for chunk in chunks)
    return "|".join(segments) + (f"/{_symbols(ahead_kinds(model))}" * model.mtp if model.mtp else "")


def layers_built(plan: Plan) -> int:
    """As Megatron's model class counts them."""
    model = plan.spec.model
    return len(_symbols(layer_kinds(model))) if hybrid(plan) else model.layers


def _symbols(layers: Iterable[LayerKind]) -> str:
    return "".join(part.symbol for kind in layers for part in parts(kind))


def hybrid_flags(plan: Plan) -> Iterator[str]:
    """What Megatron's parser is told; widths are the fields of its configuration object."""
    for name, value in _widths(plan.spec.model).items():
        yield from flag(f"--{name.replace('_', '-')}", value)
    yield from _indexer_flags(plan)
    if hybrid(plan):
        yield from flag("--hybrid-layer-pattern", hybrid_pattern(plan))
    elif (linear := _linear(plan.spec.model)) is not None:
        yield from ("--experimental-attention-variant", "gated_delta_net")
        yield from ("--linear-attention-freq", str(linear).replace(" ", ""))
    elif plan.spec.model.indexer is not None:
        yield from ("--experimental-attention-variant", "dsa")


def _indexer_flags(plan: Plan) -> Iterator[str]:
    """The Hadamard transform turns queries and keys alike, which changes no product of them: it is left out."""
    indexer = plan.spec.model.indexer
    if indexer is None:
        return
    yield from flag("--dsa-indexer-n-heads", indexer.heads)
    yield from flag("--dsa-indexer-head-dim", indexer.head_dim)
    yield from flag("--dsa-indexer-topk", indexer.topk)
    yield from switch("--dsa-indexer-rope-interleaved", indexer.interleaved)
    yield from flag("--dsa-indexer-loss-coeff", indexer.loss)
    yield from switch("--dsa-indexer-use-sparse-loss", indexer.sparse_loss)
    yield "--no-dsa-indexer-rotate-activation"
    yield from flag("--dsa-indexer-k-norm-epsilon", KEY_NORM_EPSILON)
    yield from flag("--dsa-kernel-backend", plan.spec.backend.megatron.dsa_kernels, "none")


def hybrid_kwargs(plan: Plan) -> Kwargs:
    """The same for TransformerConfig."""
    widths = {**_widths(plan.spec.model), **_indexer_kwargs(plan)}
    if hybrid(plan):
        variant = {"experimental_attention_variant": "dsa"} if plan.spec.model.indexer else {}
        return {**widths, **variant, "is_hybrid_model": True}
    if (linear := _linear(plan.spec.model)) is not None:
        return {**widths, "experimental_attention_variant": "gated_delta_net", "linear_attention_freq": linear}
    return widths | ({"experimental_attention_variant": "dsa"} if plan.spec.model.indexer else {})


def _indexer_kwargs(plan: Plan) -> Kwargs:
    indexer = plan.spec.model.indexer
    if indexer is None:
        return {}
    return {
        "dsa_indexer_n_heads": indexer.heads,
        "dsa_indexer_head_dim": indexer.head_dim,
        "dsa_indexer_topk": indexer.topk,
        "dsa_indexer_rope_interleaved": indexer.interleaved,
        "dsa_indexer_loss_coeff": indexer.loss,
        "dsa_indexer_use_sparse_loss": indexer.sparse_loss,
        "dsa_indexer_rotate_activation": False,
        "dsa_indexer_k_norm_epsilon": KEY_NORM_EPSILON,
        "dsa_kernel_backend": plan.spec.backend.megatron.dsa_kernels,
    }


def _widths(model: Model) -> Kwargs:
    net, mamba = model.delta_net, model.mamba
    values: Kwargs = {}
    if net is not None:
        values |= {"linear_num_key_heads": net.key_heads, "linear_num_value_heads": net.value_heads}
        values |= {"linear_key_head_dim": net.key_dim, "linear_value_head_dim": net.value_dim}
        values["linear_conv_kernel_dim"] = net.kernel
    if mamba is not None:
        values |= {"mamba_num_heads": mamba.heads, "mamba_head_dim": mamba.head_dim}
        values |= {"mamba_num_groups": mamba.groups, "mamba_state_dim": mamba.state}
    return values


def _linear(model: Model) -> int | list[int] | None:
    """Which layers are delta nets: all but each n-th, or 1 for each that is; None: no layer."""
    if not any(kind.mixer == "delta_net" for kind in kinds(model)):
        return None
    linear = [int(kind.mixer == "delta_net") for kind in layer_kinds(model)]
    n = linear.index(0) + 1 if 0 in linear else len(linear) + 1
    return n if linear == [int((layer + 1) % n != 0) for layer in range(len(linear))] else linear
