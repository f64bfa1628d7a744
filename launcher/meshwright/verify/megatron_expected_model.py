"""What Megatron's parsed arguments must hold of a plan's model, said a second time on purpose.

Nothing here is taken from the emitters.
"""

from __future__ import annotations

from typing import Any

from meshwright.layout.plan import Plan
from meshwright.model.kinds import layer_kinds
from meshwright.spec.model import Model

__all__ = ["of_model"]


def of_model(plan: Plan) -> dict[str, Any]:
    """Sizes, attention, other mixers and the pattern of layers."""
    return {**_model(plan), **_attention(plan), **_linear(plan)}


def _model(plan: Plan) -> dict[str, Any]:
    model = plan.spec.model
    return {
        "num_layers": _layers(plan),
        "hidden_size": model.hidden,
        "ffn_hidden_size": model.ffn,
        "num_attention_heads": model.heads,
        "untie_embeddings_and_output_weights": not model.tied_embeddings,
        "add_bias_linear": model.linear_bias,
        "swiglu": model.gated and model.activation != "quick_geglu",
        "vocab_size": model.vocab,
        "num_experts": model.moe.experts if model.moe else None,
        "moe_router_topk": model.moe.topk if model.moe else 2,
        "mtp_num_layers": model.mtp or None,
        "mtp_use_repeated_layer": model.mtp_repeated,
        "mtp_detach_heads": model.mtp_detached,
        "multi_latent_attention": model.mla is not None,
        "glu_linear_offset": model.activation_offset,
        "activation_func_clamp_value": model.activation_clamp,
        "quick_geglu": model.activation == "quick_geglu",
    }


_SYMBOLS = {
    **{"attention": "*", "latent_attention": "+", "sparse_attention": "D", "delta_net": "G", "mamba": "M"},
    **{"mlp": "-", "experts": "E", "none": ""},
}
"""Of --hybrid-layer-pattern (core/models/hybrid/hybrid_layer_allocation.py)."""


def _layers(plan: Plan) -> int:
    pattern = _pattern(plan)
    return plan.spec.model.layers if pattern is None else len(pattern.split("/")[0].replace("|", ""))


def _pattern(plan: Plan) -> str | None:
    """What HybridModel builds; None where GPTModel does."""
    model, asked = plan.spec.model, plan.spec.backend.megatron.model
    every = layer_kinds(model)
    only_hybrid = any("none" in (kind.mixer, kind.ffn) or kind.mixer == "mamba" for kind in every)
    mixers = [kind.mixer for kind in every]
    variant_ahead = model.mtp > 0 and not {"sparse_attention", "delta_net"}.isdisjoint(mixers)
    ahead = (model.pattern or "").partition("/")[2].replace(" ", "") if model.mtp else ""
    words = [_SYMBOLS.get(kind.mixer, "?") + _SYMBOLS[kind.ffn] for kind in every]
    only_hybrid = only_hybrid or variant_ahead or 0 < mixers.count("sparse_attention") < len(every)
    only_hybrid = only_hybrid or ahead not in ("", words[-1])
    if asked == "gpt" or (asked == "auto" and not only_hybrid):
        return None
    chunks = [stage.chunks[v] for v in range(plan.spec.parallelism.vpp) for stage in plan.stages]
    segments = ["".join(words[chunk.first : chunk.first + chunk.layers]) for chunk in chunks]
    return "/".join(["|".join(segments), *[ahead or words[-1]] * model.mtp])


def _linear(plan: Plan) -> dict[str, Any]:
    """Mamba, gated delta nets and the pattern."""
    net, mamba, pattern = plan.spec.model.delta_net, plan.spec.model.mamba, _pattern(plan)
    values: dict[str, Any] = {"hybrid_layer_pattern": pattern}
    if net is not None:
        values["experimental_attention_variant"] = None if pattern else "gated_delta_net"
        heads = {"linear_num_key_heads": net.key_heads, "linear_num_value_heads": net.value_heads}
        values |= {**heads, "linear_key_head_dim": net.key_dim, "linear_value_head_dim": net.value_dim}
    if (indexer := plan.spec.model.indexer) is not None:
        values["experimental_attention_variant"] = None if pattern else "dsa"
        values |= {"dsa_indexer_n_heads": indexer.heads, "dsa_indexer_head_dim": indexer.head_dim}
        values |= {"dsa_indexer_topk": indexer.topk, "dsa_indexer_loss_coeff": indexer.loss}
        values |= {"dsa_indexer_use_sparse_loss": indexer.sparse_loss, "dsa_indexer_rotate_activation": False}
        values |= {"dsa_indexer_rope_interleaved": indexer.interleaved, "apply_rope_fusion": False}
        values["dsa_kernel_backend"] = plan.spec.backend.megatron.dsa_kernels
    if mamba is not None:
        values |= {"mamba_num_heads": mamba.heads, "mamba_head_dim": mamba.head_dim}
        values |= {"mamba_state_dim": mamba.state, "mamba_num_groups": mamba.groups}
    return values


def _attention(plan: Plan) -> dict[str, Any]:
    """Latent attention has neither groups nor channels of this kind."""
    model = plan.spec.model
    if model.mla is not None:
        return {}
    grouped = model.kv_heads != model.heads
    groups = {"num_query_groups": model.kv_heads} if grouped else {}
    yarn = model.positions == "rope" and model.rope.scaling is not None and model.rope.scaling.kind == "yarn"
    return {
        "kv_channels": model.head_dim,
        "group_query_attention": grouped,
        "softmax_type": "learnable" if model.attention_sinks else "vanilla",
        "attention_output_gate": model.attention_gate,
        "qk_l2_norm": model.qk_norm == "l2",
        "qk_layernorm": model.qk_norm in ("head", "full"),
        **groups,
        **(_yarn(model) if yarn else {}),
    }


def _yarn(model: Model) -> dict[str, Any]:
    """What is not said is what Megatron takes for it (training/argument_utils.py)."""
    scaling = model.rope.scaling
    assert scaling is not None
    return {
        "position_embedding_type": "yarn",
        "rotary_scaling_factor": scaling.factor,
        "apply_rope_fusion": False,
        **(
            {}
            if scaling.original_positions == 4096
            else {"yarn_original_max_position_embeddings": scaling.original_positions}
        ),
        **({} if scaling.truncate else {"yarn_correction_range_round_to_int": False}),
    }
