"""Muon's orthogonalization: what Newton-Schulz iterations multiply, on which ranks, and what these gather for it.

A step of the iteration on an n x m matrix, n <= m, is X·Xᵀ, its square and a product with X: 4·n²m + 2·n³ FLOPs on
Megatron, in bf16 or TF32 (Emerging-Optimizers 0.2, muon_utils.py ``newton_schulz_step``). DeepSpeed takes five, on the
n x n Gram matrix of what is not square, in fp16: 8·n²m + 28·n³ (deepspeed 0.19.8, runtime/zero/muon/original_muon.py).

Megatron's tensor-parallel ranks orthogonalize each its own part of a matrix, or gather it (``--muon-tp-mode``), and
gather the parts of generalized tensor parallelism first. Elementwise work is Adam's.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.cost.collectives import data_group, expert_data_group, ring, weight_groups
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.matrices import Matrices, dealt, matrices, on_megatron, sharers
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.spec.techniques import MuonOptions

__all__ = ["flops", "gathered", "gathering", "multiplying", "sent"]

_STEPS = 5
_GRAM, _SQUARE = (8, 28), (0, 30)
"""Of n²m and n³, in FLOPs: with the restart before the third step; where n = m, by the other iteration."""

_PRODUCTS = 3
"""Of a step of the iteration."""

_GATHERS = 4
"""Of a parameter at ZeRO-3: its gradient and momentum, and both again once it is orthogonal (zero/stage3.py:1697)."""


def flops(n: Number, m: Number, gram: bool, steps: int = _STEPS) -> Number:
    """Of one matrix, n <= m, iterated on its Gram matrix (in five steps) or not."""
    if not gram:
        return steps * (4 * n * n * m + 2 * n * n * n)
    wide, cubed = (where(n == m, square, tall) for square, tall in zip(_SQUARE, _GRAM, strict=True))
    return wide * n * n * m + cubed * n * n * n


def multiplying(s: Scene, load: Load) -> Number:
    """Seconds of a step in which the slowest rank of the stage orthogonalizes.

    Whole matrices are dealt out by Megatron's layer-wise optimizer, and by DeepSpeed's ZeRO-3 of one bucket after the
    other. Below, DeepSpeed cuts a flat buffer, and a rank does each matrix that its part begins or ends in: one more,
    of the largest, on both ends together (ours).
    """
    found = [(one, _seconds(s, one)) for one in matrices(s, load, "muon")]
    whole, even, largest = dealt(s, found)
    elements = sum((one.elements for one, _ in found), 0.0)
    return where(s.layout.zero == 0, whole, _dealt(s, elements, even, largest))


def _dealt(s: Scene, elements: Number, even: Number, largest: Number) -> Number:
    if on_megatron(s):
        return maximum(even, largest)
    buckets = -(-elements // s.layout.backend.deepspeed.reduce_bucket)
    return where(s.layout.zero == 3, maximum(even, buckets * largest), even + (s.replicas > 1) * largest)


def gathering(s: Scene, load: Load) -> Number:
    """Seconds in which the ranks of a stage gather what they orthogonalize."""
    groups = weight_groups(s) if on_megatron(s) else (data_group(s), expert_data_group(s))
    replicas = sum(
        (g.size > 1) * (size > 0) * ring(s, g, size) for g, size in zip(groups, gathered(s, load), strict=True)
    )
    return replicas + sum(
        times * (one.group.size > 1) * ring(s, one.group, size) for one, times, size in _exchanged(s, load)
    )


def gathered(s: Scene, load: Load) -> tuple[Number, Number]:
    """Bytes of (dense, experts') matrices that one rank receives of replicas or parts in a step, were none its own."""
    found, parts, zero = list(matrices(s, load, "muon")), s.degrees.parts, s.layout.zero
    dense, experts = (
        sum((one.elements for one in found if one.expert is expert), 0 * load.layers) for expert in (False, True)
    )
    if not on_megatron(s):
        each = _GATHERS * s.framework.reduce_bytes * (zero == 3)
        return each * dense, each * experts
    shared = where(zero >= 1, s.replicas, 1), where(zero >= 1, s.edp, 1)
    return 4 * (parts.dense > 1) * dense / shared[0], 4 * (parts.expert > 1) * experts / shared[1]


def sent(s: Scene, load: Load) -> Number:
    """Bytes that one rank sends to tensor-parallel ones in a step."""
    return sum(
        (times * size * (one.group.size - 1) / one.group.size for one, times, size in _exchanged(s, load)),
        0 * load.layers,
    )


def _exchanged(s: Scene, load: Load) -> Iterator[tuple[Matrices, Number, Number]]:
    """Matrices, how often a rank exchanges one, bytes: the momentum in fp32, or in every step the sum of X·Xᵀ."""
    options = _options(s)
    if not on_megatron(s) or options.tp_mode == "blockwise":
        return
    for one in matrices(s, load, "muon"):
        times = one.count / where(s.layout.zero >= 1, sharers(s, one), 1)
        if options.tp_mode == "duplicated":
            yield one, times, 4 * one.cut * one.other
        else:
            yield one, times * 2 * options.steps, (2 if options.products == "medium" else 4) * one.other**2


def _options(s: Scene) -> MuonOptions:
    return s.layout.backend.megatron.muon


def _seconds(s: Scene, one: Matrices) -> Number:
    """Of one matrix: products, what they read and write, their starts."""
    gpu, e = s.layout.cluster.accelerator, s.layout.cluster.efficiency
    work, elements, steps, wide = _work(s, one)
    rate = (gpu.fp32_tflops if wide else gpu.bf16_tflops) * 1e12 * e.matmul
    moved = (4 if wide else 2) * elements / (gpu.memory_bandwidth_gb_s * 1e9 * e.memory)
    return work / rate + moved + _PRODUCTS * steps * e.kernel_us * 1e-6


def _work(s: Scene, one: Matrices) -> tuple[Number, Number, int, bool]:
    """(FLOPs, elements read and written, steps, whether these have 32 bits) of one matrix."""
    part, options = one.cut / one.group.size, _options(s)
    if not on_megatron(s):
        n, m = minimum(part, one.other), maximum(part, one.other)
        return flops(n, m, gram=True), 6 * n * m + 46 * n * n, _STEPS, False
    steps, wide = options.steps, options.products != "medium"
    if options.tp_mode == "distributed":  # a part of X, but the product with itself that all share
        n, m = one.other, part
    else:
        here = part if options.tp_mode == "blockwise" else one.cut
        n, m = minimum(here, one.other), maximum(here, one.other)
    return flops(n, m, gram=False, steps=steps), steps * (3 * n * m + 4 * n * n), steps, wide
