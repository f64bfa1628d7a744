"""Delta nets, sparse attention, HybridModel's layers: of Megatron's plain modules instead of Transformer Engine's.

The layers, what follows what, and which stage has which stay Megatron's; only the modules inside are others, with the
same parameters. A norm that Transformer Engine joins to the linear behind it stands before it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt import experimental_attention_variant_module_specs as variants
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
from megatron.core.models.hybrid import hybrid_block
from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.ssm.gated_delta_net import GatedDeltaNet, GatedDeltaNetSubmodules
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mamba_mixer import MambaMixer, MambaMixerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.multi_token_prediction import (
    MultiTokenPredictionBlock,
    MultiTokenPredictionBlockSubmodules,
    MultiTokenPredictionLayer,
    MultiTokenPredictionLayerSubmodules,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import (
    MoETransformerLayer,
    TransformerLayer,
    TransformerLayerSubmodules,
)

from meshwright.train.local_attention import latent_attention, sparse_attention

__all__ = ["hybrid_stack", "install_variants"]


def hybrid_stack(norm: Any, attention: Any, down: Any = ColumnParallelLinear) -> ModuleSpec:
    """What ``hybrid_stack_spec`` of megatron/core/models/hybrid/hybrid_layer_specs.py is, of plain modules.

    ``down`` projects to what latent attention compresses.
    """
    hybrid_block.TENorm = norm  # which the stack names itself for the last norm
    mixer = ModuleSpec(
        module=MambaMixer,
        submodules=MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear),
    )
    mamba = MambaLayerSubmodules(norm=norm, mixer=mixer, mamba_bda=get_bias_dropout_add)
    mlp = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    experts = get_moe_module_spec(
        use_te=False, num_experts=1, moe_grouped_gemm=False
    )  # any number: the config's counts
    return ModuleSpec(
        module=HybridStack,
        submodules=HybridStackSubmodules(
            mamba_layer=ModuleSpec(module=MambaLayer, submodules=mamba),
            gdn_layer=_mixing(_delta_net(norm), norm),
            attention_layer=_mixing(_attention(attention), norm),
            mla_layer=_mixing(latent_attention(norm, attention, down), norm),
            dsa_layer=_mixing(sparse_attention(norm, down), norm),
            mlp_layer=_feeding(MLPLayer, partial(MLP.as_mlp_submodule, submodules=mlp), norm),
            moe_layer=_feeding(MoETransformerLayer, experts, norm),
            mtp_block_spec=_multi_token(norm),
        ),
    )


def _mixing(mixer: ModuleSpec, norm: Any) -> ModuleSpec:
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm, self_attention=mixer, self_attn_bda=get_bias_dropout_add
        ),
    )


def _feeding(layer: type, part: Any, norm: Any) -> ModuleSpec:
    return ModuleSpec(
        module=layer,
        submodules=TransformerLayerSubmodules(pre_mlp_layernorm=norm, mlp=part, mlp_bda=get_bias_dropout_add),
    )


def _delta_net(norm: Any) -> ModuleSpec:
    return ModuleSpec(
        module=GatedDeltaNet,
        submodules=GatedDeltaNetSubmodules(in_proj=ColumnParallelLinear, out_norm=norm, out_proj=RowParallelLinear),
        metainfo={"fuse_input_layernorm": False},
    )


def _attention(core: Any) -> ModuleSpec:
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear, core_attention=core, linear_proj=RowParallelLinear
        ),
    )


def _multi_token(norm: Any) -> ModuleSpec:
    layer = MultiTokenPredictionLayerSubmodules(
        enorm=norm, hnorm=norm, eh_proj=ColumnParallelLinear, mtp_model_layer=None, layer_norm=norm
    )
    layers = [ModuleSpec(module=MultiTokenPredictionLayer, submodules=layer)]
    return ModuleSpec(
        module=MultiTokenPredictionBlock, submodules=MultiTokenPredictionBlockSubmodules(layer_specs=layers)
    )


def install_variants(norm: Any, attention: Any, down: Any = ColumnParallelLinear) -> None:
    """Let GPTModel's delta nets and layers with an indexer, which ask for Transformer Engine, take plain modules."""
    from megatron.core.models.backends import LocalSpecProvider

    class Plain(LocalSpecProvider):  # type: ignore[misc]
        def layer_norm(self, *_: Any, **__: Any) -> Any:
            return norm

    def full_attention(config: Any, backend: Any = None) -> ModuleSpec:
        layer = get_gpt_layer_local_spec(
            config.num_moe_experts, qk_layernorm=config.qk_layernorm, normalization=config.normalization
        )
        found = layer.submodules.self_attention
        found.metainfo["fuse_input_layernorm"] = False
        found.submodules.core_attention = attention
        if config.qk_layernorm:
            found.submodules.q_layernorm = found.submodules.k_layernorm = norm
        return found

    variants._get_backend_spec_provider = lambda config: Plain()
    variants._get_self_attention_module_spec = full_attention
    variants.get_gated_delta_net_module_spec = lambda config, backend=None: _delta_net(norm)
    variants.get_dsa_module_spec_for_backend = lambda config, backend=None: sparse_attention(norm, down)
