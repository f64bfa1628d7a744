"""What of a model Megatron-core's TransformerConfig takes as keyword arguments: sizes, heads, scales, experts."""

from __future__ import annotations

from typing import Any

from meshwright.emit.megatron_hybrid import hybrid, hybrid_kwargs, layers_built
from meshwright.emit.megatron_model import scores_as_usual, windows, without_positions
from meshwright.emit.megatron_moe import moe_pattern, score_said, weighs_squares
from meshwright.layout.plan import Plan
from meshwright.model.kinds import kinds
from meshwright.model.megatron_parts import parts
from meshwright.spec.model import Mla, Model, Moe, RopeScaling

__all__ = ["layers", "sizes"]

Kwargs = dict[str, Any]


def layers(plan: Plan) -> Kwargs:
    """What layers are made of, by field."""
    model = plan.spec.model
    return {
        **(_latent(model.mla, model) if model.mla else _heads(model)),
        **_scales(model),
        **hybrid_kwargs(plan),
        **(_experts(plan, model.moe) if model.moe else {}),
        **(_ahead(model) if model.mtp else {}),
    }


def _ahead(model: Model) -> Kwargs:
    return {
        "mtp_num_layers": model.mtp,
        "mtp_loss_scaling_factor": model.mtp_loss_weight,
        **({"mtp_use_repeated_layer": True} if model.mtp_repeated else {}),
        **({"mtp_detach_heads": True} if model.mtp_detached else {}),
    }


_ACTIVATIONS = {
    "swiglu": "silu",
    "squared_relu": "squared_relu",
    "geglu_tanh": "gelu_tanh",
    "relu": "relu",
    "quick_geglu": "quick_gelu",
}


def _activation(model: Model) -> str:
    """The fused kernel, which wants a bias, is the tanh approximation by itself."""
    unfused = model.activation == "gelu_tanh" and not model.linear_bias
    return "gelu_tanh" if unfused else _ACTIVATIONS.get(model.activation, "gelu")


def sizes(plan: Plan) -> Kwargs:
    """Of the model, with its norms and activation, by field."""
    model = plan.spec.model
    return {
        "num_layers": layers_built(plan),
        "hidden_size": model.hidden,
        "ffn_hidden_size": model.ffn,
        "num_attention_heads": model.heads,
        "kv_channels": model.head_dim,
        "activation_func": _activation(model),
        "gated_linear_unit": model.gated,
        **({"activation_func_clamp_value": model.activation_clamp} if model.activation_clamp else {}),
        **({"glu_linear_offset": model.activation_offset} if model.activation_offset else {}),
        "normalization": "RMSNorm" if model.norm == "rmsnorm" else "LayerNorm",
        "layernorm_epsilon": model.norm_eps,
        "layernorm_zero_centered_gamma": model.norm_zero_centered,
        "add_bias_linear": model.linear_bias,
        "init_method_std": model.init_std,
        "attention_dropout": model.attention_dropout,
        "hidden_dropout": model.hidden_dropout,
    }


def _heads(model: Model) -> Kwargs:
    window = (
        {"window_size": (model.sliding_window - 1, 0), "window_attn_skip_freq": windows(model)}
        if model.sliding_window
        else {}
    )
    skips = {"no_rope_freq": without_positions(model)} if without_positions(model) else {}
    return {
        "num_query_groups": model.kv_heads,
        "qk_layernorm": model.qk_norm in ("head", "full"),
        **({"qk_l2_norm": True} if model.qk_norm == "l2" else {}),
        **({"attention_output_gate": True} if model.attention_gate else {}),
        **({"softmax_type": "learnable"} if model.attention_sinks else {}),
        "add_qkv_bias": model.qkv_bias or model.linear_bias,
        **window,
        **skips,
    }


def _scales(model: Model) -> Kwargs:
    """As the flags say them (emit/megatron_model.py ``_scales``)."""
    embedding = None if "embedding_scale" in parts(model) else model.embedding_scale
    if embedding is None and model.logit_scale is None and scores_as_usual(model):
        return {}
    scale = model.attention_scale or model.head_dim**-0.5
    return {
        "use_mup": True,
        "mup_embedding_mult": embedding or 1.0,
        **({"mup_output_mult": model.logit_scale} if model.logit_scale else {}),
        "mup_base_head_dim": (scale * model.head_dim) ** 2,
    }


def _latent(mla: Mla, model: Model) -> Kwargs:
    scaling = model.rope.scaling
    return {
        "multi_latent_attention": True,
        "q_lora_rank": mla.q_lora_rank,
        "kv_lora_rank": mla.kv_lora_rank,
        "qk_head_dim": mla.qk_nope_dim,
        "qk_pos_emb_head_dim": mla.qk_rope_dim,
        "v_head_dim": mla.v_dim,
        "qk_layernorm": True,
        "rotary_base": int(model.rope.base),
        "rotary_percent": model.rope.fraction,
        "rope_type": "yarn" if scaling and scaling.kind == "yarn" else "rope",
        **(_yarn(scaling) if scaling else {"rotary_scaling_factor": 1.0}),
    }


def _yarn(scaling: RopeScaling) -> Kwargs:
    return {
        "rotary_scaling_factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_positions,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "mscale": scaling.mscale,
        "mscale_all_dim": scaling.mscale_all_dim,
    }


def _experts(plan: Plan, moe: Moe) -> Kwargs:
    model, megatron = plan.spec.model, plan.spec.backend.megatron
    routed_everywhere = hybrid(plan) or all(kind.ffn == "experts" for kind in kinds(model))
    return {
        "num_moe_experts": moe.experts,
        "moe_ffn_hidden_size": moe.ffn,
        "moe_layer_freq": 1 if routed_everywhere else [int(kind) for kind in moe_pattern(model)[1:-1].split(",")],
        **({"moe_latent_size": moe.latent} if moe.latent else {}),
        "moe_shared_expert_intermediate_size": moe.shared_ffn or None,
        "moe_shared_expert_gate": moe.shared_gate,
        **({"moe_apply_probs_on_input": True} if moe.weights_on_input else {}),
        "moe_router_topk": moe.topk,
        "moe_router_score_function": score_said(moe),
        "moe_router_pre_softmax": moe.score == "softmax" and not (moe.normalize_topk or moe.router_bias),
        "moe_router_load_balancing_type": moe.balancing,
        **({"moe_router_quantile_balancing_ema": moe.quantile_ema} if moe.quantile_ema else {}),
        "moe_aux_loss_coeff": moe.aux_loss,
        "moe_z_loss_coeff": moe.z_loss or None,
        "moe_router_num_groups": moe.groups if moe.groups > 1 else None,
        "moe_router_group_topk": moe.group_topk if moe.groups > 1 else None,
        "moe_router_topk_scaling_factor": moe.scaling if moe.scaling != 1.0 else None,
        "moe_router_enable_expert_bias": moe.router_bias,
        "moe_router_bias_update_rate": moe.bias_update_rate if moe.router_bias else Moe.bias_update_rate,
        "moe_router_dtype": "fp32" if moe.score != "softmax" or moe.router_bias else None,
        "moe_token_dispatcher_type": megatron.moe_dispatcher,
        "moe_grouped_gemm": megatron.moe_grouped_gemm,
        "moe_permute_fusion": megatron.moe_permute_fusion,
        **({"use_fused_weighted_squared_relu": True} if weighs_squares(model) else {}),
        "moe_expert_capacity_factor": moe.capacity_factor,
        **({"moe_token_drop_policy": moe.drop_policy} if moe.drop_policy != "probs" else {}),
    }
