"""Bytes that an optimizer keeps of a parameter, and that a checkpoint holds of it."""

from __future__ import annotations

from typing import Literal

from meshwright.layout.plan import Plan
from meshwright.spec import MegatronOptions, Training

__all__ = ["Moments", "checkpoint_gib", "saved_bytes", "state_bytes", "step_bytes"]

Moments = Literal["fp32", "bf16", "fp8"]

_MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "muon": 1, "adaptive_muon": 2, "lion": 1, "soap": 2}
"""States of a weight matrix's shape. On Megatron, Muon, Lion and SOAP keep Adam's two of embeddings, head and norms
(megatron-core 0.19.2, core/optimizer/emerging_optimizers.py), which are counted as matrices here; SOAP's squares are
counted in ``cost.soap``."""

_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}


def state_bytes(optimizer: str, moments: Moments = "fp32") -> int:
    """For each parameter, its fp32 master copy apart, with ``moments`` in that precision."""
    return _MOMENTS[optimizer] * _BYTES[moments]


def step_bytes(training: Training, options: MegatronOptions) -> float:
    """Of a parameter, for as long as Megatron's optimizer steps: an fp32 copy of a gradient that is kept in fewer bits.

    Of all that a rank owns, until the next forward (megatron-core 0.19.2, core/optimizer/distrib_optimizer.py:2782).
    The precision-aware Adam reads gradients as they are, but unfolds an fp16 master and fp8 moments to fp32
    (transformer_engine/pytorch/optimizers/fused_adam.py ``get_unscaled_state``; bf16 moments not since its 2.13).
    """
    fine = training.precision in ("bf16", "fp16", "fp8_delayed") or options.optimizer_master == "fp16"
    if options.precision_aware_optimizer and fine:
        return 4.0 * (options.optimizer_master == "fp16") + 8.0 * (options.optimizer_moments == "fp8")
    return 4.0 if training.precision != "fp32" and training.grad_reduce == "bf16" else 0.0


def saved_bytes(training: Training, moments: Moments) -> int:
    """In a checkpoint: the fp32 weight, the optimizer's state, and the 16-bit weight where there is one."""
    weights = 4 if training.precision == "fp32" else 4 + 2
    return weights + state_bytes(training.optimizer.name, moments)


def checkpoint_gib(plan: Plan) -> float:
    """Size of one checkpoint of all ranks."""
    backend = plan.spec.backend
    moments = backend.megatron.optimizer_moments if backend.name == "megatron" else "fp32"
    return plan.total_parameters * saved_bytes(plan.spec.training, moments) / 2**30
