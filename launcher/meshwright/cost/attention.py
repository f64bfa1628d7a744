"""Attention: which part of the scores is computed, in which precision, at which part of the fitted rate, and softmax.

``efficiency.attention`` was fitted on heads of 128 channels; what is not such attention differs from it here.
"""

from __future__ import annotations

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.model.operations import Operation
from meshwright.spec import Model

__all__ = ["BACKWARD", "alone", "narrow", "peak", "rate", "scanning", "seen"]

FITTED_CHANNELS = 128  # of a head, in most rows that efficiency.attention was fitted on
EXPONENTIALS = {"9": 3.9e12, "10": 4.4e12}
"""A second, by compute capability: 16 a clock on each SM (CUDA programming guide, arithmetic instructions).
Before Hopper the products are slow enough to hide them."""
FLEXIBLE = 0.15
"""Part of fused attention's rate that flex attention with a soft cap reaches; ours, from one run of Gemma 2 2B on an
H100 (docs/gpu.md)."""
SOFTMAX = 2.0
"""Work on a score in exponentials' time: FlashAttention-3's causal forward at 4K on H100 reaches 1.4 times less with 64
channels than with 128 (arXiv:2407.08608, figure 5)."""
SCAN_ON_BLACKWELL = 0.5
"""Part of what other kernels reach of the memory's rate that mamba_ssm's scan reaches there; on Hopper it reaches all
(``model.layers.mamba``). Settled on Megatron-Bridge's five rows of Nemotron 3 Nano on GB200; on B200, B300 and GB300,
and of Super, it is a prediction. Why is not known: its Triton kernels are as they were written for Hopper."""
TILE = 128  # keys that attention's kernels compute at a time: a window's edge is masked, not skipped
BACKWARD = 2.5  # of a fused forward's products: five for its two
MULTIPROCESSORS = {"9.0": 132, "10.0": 148, "10.3": 148}
QUERIES = {"10": 256}
"""Of a head, what one block of threads takes of the forward, else ``TILE``, as many as keys of the backward
(Dao-AILab/flash-attention@001e273 flash_attn/cute/flash_fwd_sm100.py: ``q_stage * m_block_size``)."""


def peak(s: Scene, o: Operation) -> Number:
    """FLOP/s over attention's two products, of which ``single`` is in 32 bits; all of them where the model is."""
    gpu = s.layout.cluster.accelerator
    if s.single:
        return gpu.full_fp32
    part = o.single / maximum(where(o.computed > 0, o.computed, o.scores), 1)
    return 1 / (part / gpu.full_fp32 + (1 - part) / (gpu.bf16_tflops * 1e12))


def rate(s: Scene) -> Number:
    """Part of the matrix peak that the model's fused attention reaches."""
    capped, cluster = s.layout.model.attention_softcap is not None, s.layout.cluster
    limit = s.framework.attention_tflops / cluster.accelerator.bf16_tflops
    return min(cluster.efficiency.attention, limit) * (FLEXIBLE if capped else 1)


def seen(s: Scene, window: int | None) -> Number:
    """Part of what causal attention computes that is inside the sliding window."""
    sequence = s.layout.training.sequence
    if window is None:
        return 1
    inside = minimum(window + TILE, sequence)  # kernels compute whole tiles
    return (2 * inside - inside * inside / sequence) / sequence


def scanning(s: Scene, o: Operation) -> float:
    """Part of the rate that kernels reach at which the operation's move their bytes: less for a scan on Blackwell."""
    newer = float(s.layout.cluster.accelerator.capability) >= 10
    return SCAN_ON_BLACKWELL if newer and o.name == "mamba.core" else 1.0


def alone(s: Scene, o: Operation) -> tuple[Number, Number]:
    """Times that fused attention takes longer, forward and backward, for a block that outlasts all others.

    The last queries see every key. Where heads and sequences are few, as on many tensor-parallel ranks, multiprocessors
    have run out of other blocks meanwhile. A B200's 8 heads at 4,096 tokens take 2.8 times as long for a product as 64
    do, forward, and 1.2 times backward (SimuMax@4dcaae5 configs/system/b200_bf16_ceperm.json, sdp_fwd and sdp_bwd); 2.3
    and 1.2 here.
    """
    capability = s.layout.cluster.accelerator.capability
    processors = MULTIPROCESSORS.get(capability)
    if o.name != "attention.core" or not s.framework.kernels.flash or processors is None:
        return 1.0, 1.0
    share = processors * _longest(s, o) / _computed(s, o)
    return maximum(1, QUERIES.get(capability.partition(".")[0], TILE) * share), maximum(1, TILE * share)


def _longest(s: Scene, o: Operation) -> Number:
    """Keys that one query sees at most."""
    sequence = s.layout.training.sequence
    return sequence if o.window is None else minimum(o.window + TILE, sequence)


def _computed(s: Scene, o: Operation) -> Number:
    """Pairs of queries and keys in a rank's heads; round a ring, where most blocks are of one length, twice as many."""
    sequence, r = s.layout.training.sequence, s.layout
    ring = (r.cp > 1) * (not s.framework.exchanges_heads)
    heads = r.micro_batch * r.model.heads / (r.tp * r.cp)
    return heads * sequence * sequence * 0.5 * seen(s, o.window) * (1 + ring)


def narrow(s: Scene, o: Operation) -> Number:
    """Seconds of fused attention's softmax beyond those in ``efficiency.attention``.

    That constant is one of heads of 128 channels, as most measured models have; narrower heads do fewer products for
    each score, and the softmax's work on it, exponential and all, is the same.
    """
    exponentials = EXPONENTIALS.get(s.layout.cluster.accelerator.capability.partition(".")[0])
    if o.name != "attention.core" or not s.framework.kernels.flash or exponentials is None:
        return 0
    model = s.layout.model
    sequence = s.layout.training.sequence
    scores = s.tokens * sequence * model.heads / s.layout.tp * 0.5 * seen(s, o.window)
    return SOFTMAX * scores / exponentials * _narrower(model)


def _narrower(model: Model) -> Number:
    """Part of a softmax that heads of 128 channels do not have; latent attention's wider ones have less of it."""
    if model.mla is None:
        return maximum(0, 1 - model.head_dim / FITTED_CHANNELS)
    return 1 - (model.mla.qk_nope_dim + model.mla.qk_rope_dim + model.mla.v_dim) / 2 / FITTED_CHANNELS
