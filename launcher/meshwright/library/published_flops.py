"""How papers count the operations of training, each convention by its name.

``palm``: model FLOPs as PaLM counts them (arXiv:2204.02311, appendix B): 6 a parameter and token, and 12 a layer, a
head's channel and a token looked at; the embedding's look-up is free, attention is not halved for being causal.
``causal``: the same with attention halved, since a token sees half the sequence on average; so Megatron-Bridge counts.
``recompute``: hardware FLOPs as Megatron-LM's papers count them (arXiv:2104.04473, equation 3): with full
recomputation every layer runs forward twice, 8 for 6.
"""

from __future__ import annotations

from meshwright.layout.plan import Plan
from meshwright.spec import Model

__all__ = ["causal_flops_per_token", "hardware_flops_per_token", "mfu", "model_flops_per_token", "peak_flops"]


def model_flops_per_token(plan: Plan) -> float:
    """Forward and backward FLOP of one token (palm)."""
    return _weights(plan) + _attention(plan)


def causal_flops_per_token(plan: Plan) -> float:
    """Model FLOPs with half of attention (causal)."""
    return _weights(plan) + _attention(plan) / 2


def hardware_flops_per_token(plan: Plan) -> float:
    """Model FLOPs and, with full recomputation, one more forward pass of every layer (recompute)."""
    flops = model_flops_per_token(plan)
    if plan.spec.parallelism.recompute != "full":
        return flops
    head = 6.0 * plan.spec.model.vocab * plan.spec.model.hidden
    return flops + (flops - head) / 3


def peak_flops(plan: Plan) -> float:
    """Dense bf16 peak of one GPU in FLOP/s: what MFU is measured against, also for runs in fp8."""
    return plan.spec.cluster.accelerator.bf16_tflops * 1e12


def mfu(plan: Plan, tokens_per_s_per_gpu: float) -> float:
    """Part of the bf16 peak that a throughput is."""
    return model_flops_per_token(plan) * tokens_per_s_per_gpu / peak_flops(plan)


def _weights(plan: Plan) -> float:
    model = plan.spec.model
    lookup = 0 if model.tied_embeddings else model.vocab * model.hidden
    positions = model.max_positions * model.hidden if model.positions == "learned" else 0
    heads = model.mtp * model.vocab * model.hidden  # each layer of multi-token prediction runs the head once more
    return 6.0 * (plan.active_parameters + heads - lookup - positions)


def _attention(plan: Plan) -> float:
    model = plan.spec.model
    return sum(_attention_of(model, plan.batch.sequence, layer) for layer in range(model.layers + model.mtp))


def _attention_of(model: Model, sequence: int, layer: int) -> float:
    """Scores and their product with the values, over all that ``layer`` (from 0) lets a token see."""
    full = model.full_attention_every and (layer + 1) % model.full_attention_every == 0
    seen = sequence if model.sliding_window is None or full else min(sequence, model.sliding_window)
    values = model.mla.v_dim if model.mla else model.head_dim
    return 6.0 * model.heads * (model.head_dim + values) * seen
