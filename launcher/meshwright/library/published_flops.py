"""How papers count the operations of training, each convention by its name.

``palm``: model FLOPs as PaLM counts them (``model.work.palm_flops``).
``causal``: the same with attention halved, since a token sees half the sequence on average; so Megatron-Bridge counts.
``recompute``: hardware FLOPs as Megatron-LM's papers count them (arXiv:2104.04473, equation 3): with full
recomputation every layer runs forward twice, 8 for 6.
"""

from __future__ import annotations

from meshwright.layout.plan import Plan
from meshwright.model.work import palm_flops

__all__ = [
    "causal_flops_per_token",
    "eight_bit_speedup",
    "hardware_flops_per_token",
    "mfu",
    "model_flops_per_token",
    "peak_flops",
]


def model_flops_per_token(plan: Plan) -> float:
    """Forward and backward FLOP of one token (palm)."""
    return palm_flops(plan.spec.model, plan.batch.sequence)


def causal_flops_per_token(plan: Plan) -> float:
    """Model FLOPs with half of attention (causal)."""
    return palm_flops(plan.spec.model, plan.batch.sequence, causal=True)


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


def eight_bit_speedup(plan: Plan) -> float:
    """How much higher the peak is in the precision that the plan computes in."""
    gpu = plan.spec.cluster.accelerator
    eight = plan.spec.training.precision not in ("fp32", "fp16", "bf16")
    return gpu.fp8_tflops / gpu.bf16_tflops if eight and gpu.fp8_tflops else 1.0


def mfu(plan: Plan, tokens_per_s_per_gpu: float) -> float:
    """Part of the bf16 peak that a throughput is."""
    return model_flops_per_token(plan) * tokens_per_s_per_gpu / peak_flops(plan)
