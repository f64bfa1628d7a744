"""Experts and their router as Megatron-LM flags."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.emit._flags import flag, switch
from meshwright.emit.megatron_hybrid import hybrid
from meshwright.layout.plan import Plan
from meshwright.model.kinds import kinds, layer_kinds
from meshwright.spec.model import Model, Moe

__all__ = ["experts_flags", "moe_pattern", "score_said", "weighs_squares"]


def moe_pattern(model: Model) -> str:
    """1 for each MoE layer, 0 for each dense one, as the expression Megatron evaluates."""
    routed = [int(kind.ffn == "experts") for kind in layer_kinds(model)]
    return "[" + ",".join(map(str, routed)) + "]"


def experts_flags(plan: Plan) -> Iterator[str]:
    """Experts, their router and what brings tokens to them; nothing of a model without."""
    moe, megatron = plan.spec.model.moe, plan.spec.backend.megatron
    if moe is None:
        return
    yield from flag("--num-experts", moe.experts)
    yield from flag("--moe-ffn-hidden-size", moe.ffn)
    if not (hybrid(plan) or all(kind.ffn == "experts" for kind in kinds(plan.spec.model))):
        yield from flag("--moe-layer-freq", moe_pattern(plan.spec.model))
    yield from flag("--moe-latent-size", moe.latent)
    yield from flag("--moe-shared-expert-intermediate-size", moe.shared_ffn or None)
    yield from switch("--moe-shared-expert-gate", moe.shared_gate)
    yield from switch("--moe-apply-probs-on-input", moe.weights_on_input)
    yield from _router(moe)
    yield from flag("--moe-token-dispatcher-type", megatron.moe_dispatcher, "allgather")
    yield from switch("--moe-grouped-gemm", megatron.moe_grouped_gemm)
    yield from switch("--moe-permute-fusion", megatron.moe_permute_fusion)
    yield from switch("--use-fused-weighted-squared-relu", weighs_squares(plan.spec.model))
    yield from flag("--moe-expert-capacity-factor", moe.capacity_factor)
    yield from flag("--moe-token-drop-policy", moe.drop_policy, "probs")


def weighs_squares(model: Model) -> bool:
    """Whether one kernel does experts' squared ReLU and weighs it: it takes no bias (moe/experts.py:850)."""
    return model.moe is not None and model.activation == "squared_relu" and not model.linear_bias


def score_said(moe: Moe) -> str:
    """With a bias, softmax is our router's (train/routers.py): Megatron wants another to be said."""
    return "sigmoid" if moe.router_bias and moe.score == "softmax" else moe.score


def _router(moe: Moe) -> Iterator[str]:
    yield from flag("--moe-router-topk", moe.topk, 2)
    yield from flag("--moe-router-score-function", score_said(moe), "softmax")
    # a softmax over all experts, normalised over the chosen ones, is the softmax over the chosen ones
    yield from switch(
        "--moe-router-pre-softmax", moe.score == "softmax" and not (moe.normalize_topk or moe.router_bias)
    )
    yield from flag("--moe-router-load-balancing-type", moe.balancing, "aux_loss")
    yield from flag("--moe-router-quantile-balancing-ema", moe.quantile_ema, 0.0)
    yield from flag("--moe-aux-loss-coeff", moe.aux_loss, 0.0)
    yield from flag("--moe-z-loss-coeff", moe.z_loss, 0.0)
    if moe.groups > 1:
        yield from flag("--moe-router-num-groups", moe.groups)
        yield from flag("--moe-router-group-topk", moe.group_topk)
    yield from flag("--moe-router-topk-scaling-factor", moe.scaling, 1.0)
    if moe.router_bias:
        yield "--moe-router-enable-expert-bias"
        yield from flag("--moe-router-bias-update-rate", moe.bias_update_rate, 1e-3)
    if moe.score != "softmax" or moe.router_bias:
        yield from flag("--moe-router-dtype", "fp32")  # DeepSeek-V3 scores in fp32
