"""Latent and sparse attention of Megatron's plain modules instead of Transformer Engine's, with the same parameters."""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import multi_latent_attention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.experimental_attention_variant import absorbed_mla
from megatron.core.transformer.experimental_attention_variant.absorbed_mla import (
    AbsorbedMLASelfAttention,
    AbsorbedMLASelfAttentionSubmodules,
)
from megatron.core.transformer.experimental_attention_variant.dsa import (
    DSAIndexer,
    DSAIndexerSubmodules,
    DSAttention,
    DSAttentionSubmodules,
)
from megatron.core.transformer.multi_latent_attention import MLASelfAttention, MLASelfAttentionSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec

from meshwright.train.whole import Whole

__all__ = ["install_compression", "latent_attention", "sparse_attention"]


def install_compression() -> None:
    """What latent attention compresses with is whole on every rank, as with Transformer Engine's layers.

    Megatron's plain layers split it. Then the gradient of the keys' positions, which every head reads, stays each
    rank's own: it is gathered, which sums nothing backwards (core/transformer/multi_latent_attention.py:739).
    """
    multi_latent_attention.TELinear = absorbed_mla.TELinear = Whole
    down = {"linear_q_down_proj": Whole, "linear_kv_down_proj": Whole}
    gpt_layer_specs.MLASelfAttentionSubmodules = lambda **parts: MLASelfAttentionSubmodules(**{**parts, **down})


def latent_attention(norm: Any, core: Any, down: Any) -> ModuleSpec:
    """What HybridModel's ``mla_layer`` is; ``down`` projects to what is compressed."""
    return ModuleSpec(
        module=MLASelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=MLASelfAttentionSubmodules(core_attention=core, **_compressing(norm, down)),
    )


def sparse_attention(norm: Any, down: Any) -> ModuleSpec:
    """What ``get_dsa_module_spec_for_backend`` of Megatron makes of Transformer Engine's modules."""
    indexer = DSAIndexerSubmodules(linear_wq_b=Whole, linear_wk=Whole, k_norm=norm, linear_weights_proj=Whole)
    core = ModuleSpec(
        module=DSAttention,
        submodules=DSAttentionSubmodules(indexer=ModuleSpec(module=DSAIndexer, submodules=indexer)),
    )
    return ModuleSpec(
        module=AbsorbedMLASelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=AbsorbedMLASelfAttentionSubmodules(core_attention=core, **_compressing(norm, down)),
        metainfo={"fuse_input_layernorm": False},
    )


def _compressing(norm: Any, down: Any) -> dict[str, Any]:
    return {
        "linear_q_proj": ColumnParallelLinear,
        "linear_q_down_proj": down,
        "linear_q_up_proj": ColumnParallelLinear,
        "linear_kv_down_proj": down,
        "linear_kv_up_proj": ColumnParallelLinear,
        "linear_proj": RowParallelLinear,
        "q_layernorm": norm,
        "kv_layernorm": norm,
    }
