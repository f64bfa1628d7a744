"""Megatron-LM's arguments -> our ``model.moe``: the emitter read backwards (emit/megatron_moe.py)."""

from __future__ import annotations

from typing import Any

from meshwright.imports.literal import literal
from meshwright.imports.megatron_arguments import Arguments

__all__ = ["CARRIED", "dense_width", "experts", "frequency", "routed"]

Flat = dict[str, Any]

CARRIED = {
    "model.moe.experts": "num_experts",
    "model.moe.ffn": "moe_ffn_hidden_size",
    "model.moe.first_dense": "moe_layer_freq expert_interval",
    "model.moe.shared_ffn": "moe_shared_expert_intermediate_size",
    "model.moe.shared_gate": "moe_shared_expert_gate",
    "model.moe.topk": "moe_router_topk",
    "model.moe.score": "moe_router_score_function moe_router_dtype",
    "model.moe.normalize_topk": "moe_router_pre_softmax",
    "model.moe.router_bias": "moe_router_enable_expert_bias",
    "model.moe.bias_update_rate": "moe_router_bias_update_rate",
    "model.moe.groups": "moe_router_num_groups",
    "model.moe.group_topk": "moe_router_group_topk",
    "model.moe.scaling": "moe_router_topk_scaling_factor",
    "model.moe.balancing": "moe_router_load_balancing_type",
    "model.moe.quantile_ema": "moe_router_quantile_balancing_ema",
    "model.moe.aux_loss": "moe_aux_loss_coeff",
    "model.moe.z_loss": "moe_z_loss_coeff",
    "model.moe.capacity_factor": "moe_expert_capacity_factor",
    "model.moe.drop_policy": "moe_token_drop_policy",
    "model.moe.weights_on_input": "moe_apply_probs_on_input",
    "model.moe.latent": "moe_latent_size",
}


def experts(a: Arguments) -> Flat:
    """The experts' values by dotted path; empty for a dense model, which Megatron-DeepSpeed calls one of one expert."""
    if (a("num_experts") or 1) == 1:
        return {}
    values = {
        "experts": a("num_experts"),
        "topk": 1 if _one_expert(a) else a("moe_router_topk"),
        "shared_ffn": a("moe_shared_expert_intermediate_size") or 0,
        "shared_gate": a("moe_shared_expert_gate"),
        **_router(a),
        "balancing": _one(a("moe_router_load_balancing_type")),
        "quantile_ema": a("moe_router_quantile_balancing_ema"),
        "aux_loss": float(_one(a("moe_aux_loss_coeff")) or 0.0),
        "z_loss": a("moe_z_loss_coeff") or 0.0,
        "capacity_factor": a("moe_expert_capacity_factor"),
        "drop_policy": a("moe_token_drop_policy"),
        "weights_on_input": a("moe_apply_probs_on_input"),
        "latent": a("moe_latent_size"),
        **_ffn(a),
        **(_every(a) if _of_fork(a) else frequency(a("moe_layer_freq"), a("num_layers")) or {}),
    }
    return {f"model.moe.{name}": value for name, value in values.items()}


def _router(a: Arguments) -> Flat:
    """How a token's experts are chosen and weighed."""
    score = a("moe_router_score_function")
    return {
        "score": score,
        "normalize_topk": not _one_expert(a) and (score != "softmax" or not a("moe_router_pre_softmax")),
        "router_bias": a("moe_router_enable_expert_bias"),
        "bias_update_rate": a("moe_router_bias_update_rate"),
        "groups": a("moe_router_num_groups") or 1,
        "group_topk": a("moe_router_group_topk") or 1,
        "scaling": a("moe_router_topk_scaling_factor") or 1.0,
    }


def _one_expert(a: Arguments) -> bool:
    return _of_fork(a) and (not a.says("moe_router_topk") or a("moe_router_topk") == 1)


def _of_fork(a: Arguments) -> bool:
    """Whether the experts are Megatron-DeepSpeed's: one a token, unnormalised, in every second layer, unless told."""
    said = a.given.get("expert_model_parallel_size")
    return said is not None and said.key == "--moe-expert-parallel-size"


def _every(a: Arguments) -> Flat:
    every = a("expert_interval") or 2
    return {"every": every} if every > 1 else {"first_dense": 0}


def _ffn(a: Arguments) -> Flat:
    """Where it is not said, an expert is as wide as the dense layer (arguments.py:1596)."""
    width = a("moe_ffn_hidden_size") or dense_width(a)
    return {} if width is None else {"ffn": width}


def dense_width(a: Arguments) -> int | None:
    """Of the dense layer: as said, else four times the hidden size, of a gated one two thirds of that in 64s."""
    width: int | None = a("ffn_hidden_size")
    if width or not a("hidden_size"):
        return width
    hidden = a("hidden_size")
    return int((4 * hidden * 2 / 3) / 64) * 64 if a("swiglu") else 4 * hidden


def frequency(written: Any, layers: int | None) -> dict[str, int] | None:
    """``first_dense`` and ``every`` of a layer pattern; None where a model of ours has no such pattern.

    A number n puts experts into layers 0, n, 2n, ... (core/models/gpt/gpt_layer_specs.py:642).
    """
    pattern = routed(written, layers)
    if pattern is None:
        return None
    if 1 not in pattern:
        return {"first_dense": len(pattern), "every": 1}
    for first in range(pattern.index(1) + 1):
        every = pattern.index(1) - first + 1
        if pattern == [int(i >= first and (i - first) % every == every - 1) for i in range(len(pattern))]:
            return {"first_dense": first, "every": every}
    return None


def routed(written: Any, layers: int | None) -> list[int] | None:
    """1 for each layer of experts of ``--moe-layer-freq``; None where it is no such list."""
    if isinstance(written, str):
        try:
            written = literal(written)
        except ValueError:
            return None
    if isinstance(written, int) and written > 0:
        return [int(layer % written == 0) for layer in range(layers or written)]
    return written if isinstance(written, list) and set(written) <= {0, 1} else None


def _one(value: Any) -> Any:
    """A list of one is that one (arguments.py:1606)."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
