"""Muon's orthogonalization: what Newton-Schulz iterations multiply, on which ranks, and what these gather for it.

A step of the iteration on an n x m matrix, n <= m, is X·Xᵀ, its square and a product with X: 4·n²m + 2·n³ FLOPs on
Megatron, in bf16 or TF32 (Emerging-Optimizers 0.2, muon_utils.py ``newton_schulz_step``). DeepSpeed takes five, on the
n x n Gram matrix of what is not square, in fp16: 8·n²m + 28·n³ (deepspeed 0.19.8, runtime/zero/muon/original_muon.py).

Megatron's tensor-parallel ranks orthogonalize each its own part of a matrix, or gather it (``--muon-tp-mode``), and
gather the parts of generalized tensor parallelism first. Elementwise work is Adam's.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.cost.collectives import Group, data_group, expert_data_group, group, ring, weight_groups
from meshwright.cost.inputs import Load, Scene, built
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.model.operations import Operation, Weight, mtp_joint
from meshwright.spec.frozen import dataclass
from meshwright.spec.techniques import MuonOptions

__all__ = ["flops", "gathered", "gathering", "multiplying", "sent"]

_STEPS = 5
_GRAM, _SQUARE = (8, 28), (0, 30)
"""Of n²m and n³, in FLOPs: with the restart before the third step; where n = m, by the other iteration."""

_PRODUCTS = 3
"""Of a step of the iteration."""

_GATHERS = 4
"""Of a parameter at ZeRO-3: its gradient and momentum, and both again once it is orthogonal (zero/stage3.py:1697)."""


@dataclass(frozen=True)
class _Matrices:
    """``count`` on one rank: the side that ranks of ``group`` cut, whole, and the other; whether of routed experts.

    ``unit``: that are one parameter, as all experts of a layer are in transformers, and go to one rank.
    """

    count: Number
    cut: Number
    other: Number
    group: Group
    expert: bool
    unit: Number = 1

    @property
    def elements(self) -> Number:
        """Of one rank's part of all of them."""
        return self.count * self.cut * self.other / self.group.size


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
    found = [(one, _seconds(s, one)) for one in _matrices(s, load)]
    whole = sum((one.count * seconds for one, seconds in found), 0.0)
    even = sum((one.count * seconds / _ranks(s, one) for one, seconds in found), 0.0)
    largest = maximum(0.0, *((one.count > 0) * seconds * one.unit for one, seconds in found))
    elements = sum((one.elements for one, _ in found), 0.0)
    return where(s.layout.zero == 0, whole, _dealt(s, elements, even, largest))


def _dealt(s: Scene, elements: Number, even: Number, largest: Number) -> Number:
    if _on_megatron(s):
        return maximum(even, largest)
    buckets = -(-elements // s.layout.backend.deepspeed.reduce_bucket)
    return where(s.layout.zero == 3, maximum(even, buckets * largest), even + (s.replicas > 1) * largest)


def gathering(s: Scene, load: Load) -> Number:
    """Seconds in which the ranks of a stage gather what they orthogonalize."""
    groups = weight_groups(s) if _on_megatron(s) else (data_group(s), expert_data_group(s))
    replicas = sum(
        (g.size > 1) * (size > 0) * ring(s, g, size) for g, size in zip(groups, gathered(s, load), strict=True)
    )
    return replicas + sum(
        times * (one.group.size > 1) * ring(s, one.group, size) for one, times, size in _exchanged(s, load)
    )


def gathered(s: Scene, load: Load) -> tuple[Number, Number]:
    """Bytes of (dense, experts') matrices that one rank receives of replicas or parts in a step, were none its own."""
    found, parts, zero = list(_matrices(s, load)), s.degrees.parts, s.layout.zero
    dense, experts = (
        sum((one.elements for one in found if one.expert is expert), 0 * load.layers) for expert in (False, True)
    )
    if not _on_megatron(s):
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


def _exchanged(s: Scene, load: Load) -> Iterator[tuple[_Matrices, Number, Number]]:
    """Matrices, how often a rank exchanges one, bytes: the momentum in fp32, or in every step the sum of X·Xᵀ."""
    options = _options(s)
    if not _on_megatron(s) or options.tp_mode == "blockwise":
        return
    for one in _matrices(s, load):
        times = one.count / where(s.layout.zero >= 1, _ranks(s, one), 1)
        if options.tp_mode == "duplicated":
            yield one, times, 4 * one.cut * one.other
        else:
            yield one, times * 2 * options.steps, (2 if options.products == "medium" else 4) * one.other**2


def _ranks(s: Scene, one: _Matrices) -> Number:
    return s.edp if one.expert else s.replicas


def _on_megatron(s: Scene) -> bool:
    return s.layout.backend.name == "megatron"


def _options(s: Scene) -> MuonOptions:
    return s.layout.backend.megatron.muon


def _matrices(s: Scene, load: Load) -> Iterator[_Matrices]:
    """Of a stage; none where another optimizer steps. Embedding and head are others'."""
    if s.layout.training.optimizer.name != "muon":
        return
    load = built(s.layout.model, load)
    for times, operations in zip(load.of_kind, s.layers, strict=True):
        yield from _of_layer(s, operations, times)
    if s.layout.model.mtp:
        yield from _of_layer(s, mtp_joint(s.layout.model), load.mtp)


def _of_layer(s: Scene, operations: tuple[Operation, ...], times: Number) -> Iterator[_Matrices]:
    for operation in operations:
        for w in operation.weights:
            if not isinstance(w.rows, int) or w.rows:
                yield from _of_weight(s, operation, w, times)


def _of_weight(s: Scene, operation: Operation, w: Weight, times: Number) -> Iterator[_Matrices]:
    d, expert = s.degrees, w.shard == "expert"
    cutting = group(s, d.etp if expert else d.tp if w.shard == "tp" else 1, 1)
    columns, copies = w.elements / w.rows, w.copies / d.ep if expert else 1
    unit = 1 if _on_megatron(s) else copies
    for rows in _rows(s, operation, w):
        sides = (columns, rows) if w.inputs_cut else (rows, columns)
        yield _Matrices(times * copies, *sides, cutting, expert, unit)


def _rows(s: Scene, operation: Operation, w: Weight) -> tuple[Number, ...]:
    """Of the matrices that one weight stands for: transformers' modules keep a gate and what it gates apart, too."""
    model, megatron = s.layout.model, _on_megatron(s)
    if operation.name == "attention.qkv" and (_options(s).split_qkv or not megatron):
        keys = model.kv_heads * model.head_dim
        return w.rows - 2 * keys, keys, keys
    apart = not megatron and model.gated and w.shard == "tp" and operation.name.endswith(".up")
    return (w.rows / 2, w.rows / 2) if apart else (w.rows,)


def _seconds(s: Scene, one: _Matrices) -> Number:
    """Of one matrix: products, what they read and write, their starts."""
    gpu, e = s.layout.cluster.accelerator, s.layout.cluster.efficiency
    work, elements, steps, wide = _work(s, one)
    rate = (gpu.fp32_tflops if wide else gpu.bf16_tflops) * 1e12 * e.matmul
    moved = (4 if wide else 2) * elements / (gpu.memory_bandwidth_gb_s * 1e9 * e.memory)
    return work / rate + moved + _PRODUCTS * steps * e.kernel_us * 1e-6


def _work(s: Scene, one: _Matrices) -> tuple[Number, Number, int, bool]:
    """(FLOPs, elements read and written, steps, whether these have 32 bits) of one matrix."""
    part, options = one.cut / one.group.size, _options(s)
    if not _on_megatron(s):
        n, m = minimum(part, one.other), maximum(part, one.other)
        return flops(n, m, gram=True), 6 * n * m + 46 * n * n, _STEPS, False
    steps, wide = options.steps, options.products != "medium"
    if options.tp_mode == "distributed":  # a part of X, but the product with itself that all share
        n, m = one.other, part
    else:
        here = part if options.tp_mode == "blockwise" else one.cut
        n, m = minimum(here, one.other), maximum(here, one.other)
    return flops(n, m, gram=False, steps=steps), steps * (3 * n * m + 4 * n * n), steps, wide
