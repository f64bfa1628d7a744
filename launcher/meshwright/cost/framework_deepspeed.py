"""What DeepSpeed does that a layout does not say: the fields of its Framework, and which optimizer sums gradients."""

from __future__ import annotations

from typing import Any

from meshwright.cost.numbers import Number
from meshwright.model.count import cuts_vocabulary, total_parameters
from meshwright.model.offload import optimizer_part, summed_bytes, sums_beside
from meshwright.model.operation import Kernels
from meshwright.rules import Layout
from meshwright.rules.host import offload, owned

__all__ = ["deepspeed"]

_SELECTED = 12.0
"""Bytes of a parameter that ZenFlow steps on the GPU: Adam's moments and the gradient (ZenFlowSelectiveAdamW)."""

_SPREAD = 0.15
"""80 % of peaks within its exp, which is wider than of others: of DeepSpeed with transformers' modules seven were
published, by nvidia-smi, and five of them lie within it. What an engine holds is counted to the byte on a CPU."""

_QWZ, _QGZ = 1.0, 0.5
"""Bytes of ZeRO++: weights in 8 bits, gradients in 4 (Wang et al. 2023, arXiv:2306.10209); scales are left out."""


def deepspeed(layout: Layout) -> dict[str, Any]:
    """Transformers converts logits to fp32 and keeps their log-softmax; Ulysses exchanges heads for tokens."""
    options = layout.backend.deepspeed
    whole = not cuts_vocabulary(layout.model, layout.backend)
    deepep = options.moe_dispatcher == "deepep"
    flash = options.attention != "eager"
    return _states(layout) | {
        "tiles": (options.tiling.loss, options.tiling.mlp),
        "kernels": Kernels(flash=flash, activation=False, norm=False, rope=False, weighs_outputs=True, casts=True),
        "memory_spread": _SPREAD,
        "batch_first": True,
        "ends_early": True,  # use_reentrant: False (train/deepspeed_engine.py)
        "loss_bytes": 16.0,
        "exchanges_heads": True,
        "sends_once": deepep,
        "dispatcher_copies": 2.0 if layout.model.moe and deepep else 0.0,
        "autocast": options.autocast != "none",
        "gathered_loss": whole,
        "gathers_logits": whole,
        "overlaps_gradients": options.autotp.overlap,
        "dummy_gradients": False,
        "gather_bytes": _QWZ if options.quantized_weights else 0.0,
        "scatter_bytes": _QGZ if options.quantized_gradients else 0.0,
        "secondary": options.hpz,
        "reduces_whole": layout.training.optimizer.name == "muon",  # zero/stage3.py:360, :1882
        "fused_gradients": False,
    }


def _states(layout: Layout) -> dict[str, Any]:
    """Bytes of a parameter, its gradient and states, kept and sent."""
    states, options, beside = offload(layout), layout.backend.deepspeed, _sums_beside(layout)
    selected = options.zenflow.topk or 0.0
    return {
        "weight_bytes": states.weight + _cast(layout),
        "gradient_bytes": states.gradient,
        "optimizer_bytes": states.optimizer + selected * _SELECTED + _beside_momentum(layout),
        "optimizer_away": optimizer_part(options, owned(layout)),
        "reduce_bytes": summed_bytes(layout.training) - 2.0 * (options.autocast != "none") * (layout.zero >= 1),
        "reduces_after": beside,
        "gradient_passes": beside * _passes(layout),
    }


def _sums_beside(layout: Layout) -> Number:
    return sums_beside(layout.backend.deepspeed, layout.training, layout.zero) + 0


def _passes(layout: Layout) -> Number:
    """Bytes that BF16_Optimizer moves of each gradient, beside what is written of a product and both sums' reads.

    A copy to fp32 reads 2 and writes and reads 4 (bf16_optimizer.py:523), zeroing writes 2 (:623): with a product's 4
    and 12 for the sums 28. A step's first micro-batch neither zeroes its 16 bits nor adds to them, which is 8.
    """
    return 12 - 8 / layout.microbatches


def _cast(layout: Layout) -> Number:
    """Bytes of a weight's 16-bit copy, which autocast keeps from the forward pass on; ZeRO-3 gathers it instead."""
    return 2 * (layout.backend.deepspeed.autocast != "none") * (layout.zero < 3)


def _beside_momentum(layout: Layout) -> Number:
    """Bytes of a parameter under Muon beside one momentum, over all of them.

    Adam steps embeddings and head and keeps two. At stages 1 and 2 a step's momentum is staged until it is sure to be
    taken (runtime/zero/stage_1_and_2.py:2989), but not by BF16_Optimizer.
    """
    if layout.training.optimizer.name != "muon":
        return 0.0
    model = layout.model
    ends = model.vocab * model.hidden * (1 if model.tied_embeddings else 2) / total_parameters(model)
    staged = ((layout.zero == 1) | (layout.zero == 2)) & (1 - _sums_beside(layout))
    return 4 * ends + 4 * (1 - ends) * staged
