"""Buffers in which DeepSpeed 0.19.8 collects gradients, and copies of them while they are reduced.

As large as ``reduce_bucket`` whatever the model's size. Gathering new weights takes none: each rank's part is gathered
where the weights are (runtime/utils.py:1008).
"""

from __future__ import annotations

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, where
from meshwright.model.offload import summed_bytes, weight_bytes

__all__ = ["buckets", "reducing"]


def buckets(s: Scene) -> Number:
    """Bytes while the backward runs: one buffer, below stage 3 another where reductions overlap.

    Below stage 3 they are of the type gradients come in, at stage 1 of that of their sums (zero/stage_1_and_2.py:1253,
    :3254), at stage 3 of that they are sent in (zero/stage3.py:781). BF16_Optimizer has none (bf16_optimizer.py).
    """
    if s.layout.backend.name != "deepspeed":
        return 0 * s.tokens
    zero, overlaps = s.layout.zero, s.layout.spec.parallelism.overlap_grad_reduce
    below = (1 + overlaps) * where(zero == 1, _summed(s), weight_bytes(s.layout.training))
    return _reduced(s) * where(zero == 3, s.framework.reduce_bytes, below)


def reducing(s: Scene) -> Number:
    """Bytes of what is sent of one buffer: joined tensors, in the type they are sent in.

    zero/stage_1_and_2.py ``allreduce_bucket``, comm/coalesced_collectives.py:122.
    """
    if s.layout.backend.name != "deepspeed":
        return 0 * s.tokens
    return _reduced(s) * s.framework.reduce_bytes


def _reduced(s: Scene) -> Number:
    """Elements."""
    sharded = (s.layout.zero >= 1) * (1 - s.framework.reduces_after)
    return sharded * s.layout.backend.deepspeed.reduce_bucket


def _summed(s: Scene) -> int:
    training = s.layout.training
    return weight_bytes(training) if training.precision == "fp32" else summed_bytes(training)
