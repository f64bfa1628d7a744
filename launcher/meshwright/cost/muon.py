"""Muon's orthogonalization: what Newton-Schulz iterations multiply, on which ranks, and what these gather for it.

Of an n x m matrix, n <= m, five iterations of X·Xᵀ, its square and a product with X are 5·(4·n²m + 2·n³) FLOPs: on
Megatron, in bf16 (Emerging-Optimizers, muon_utils.py ``newton_schulz_step``). DeepSpeed iterates on the n x n Gram
matrix of what is not square, in fp16: 8·n²m + 28·n³ (deepspeed 0.19.8, runtime/zero/muon/original_muon.py).

Megatron's tensor-parallel ranks orthogonalize each its own part (``--muon-tp-mode blockwise``), of queries, keys and
values apart (``--muon-no-split-qkv`` unset), and gather the parts of generalized tensor parallelism first. Elementwise
work is Adam's.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.cost.collectives import data_group, expert_data_group, ring, weight_groups
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.model.operations import Operation, Weight, mtp_joint
from meshwright.spec.frozen import dataclass

__all__ = ["flops", "gathered", "gathering", "multiplying"]

_STEPS = 5
_GRAM, _SQUARE = (8, 28), (0, 30)
"""Of n²m and n³, in FLOPs: with the restart before the third step; where n = m, by the other iteration."""

_PRODUCTS = 15
_GATHERS = 4
"""Of a parameter at ZeRO-3: its gradient and momentum, and both again once it is orthogonal (zero/stage3.py:1697)."""


@dataclass(frozen=True)
class _Matrices:
    """``count`` on one rank, of ``n`` by ``m`` elements, n <= m, ``expert``: of routed experts; seconds of one.

    ``unit``: that are one parameter, as all experts of a layer are in transformers, and go to one rank.
    """

    count: Number
    n: Number
    m: Number
    expert: bool
    seconds: Number = 0.0
    unit: Number = 1


def flops(n: Number, m: Number, gram: bool) -> Number:
    """Of one matrix, n <= m, iterated on its Gram matrix or not."""
    if not gram:
        return _STEPS * (4 * n * n * m + 2 * n * n * n)
    wide, cubed = (where(n == m, square, tall) for square, tall in zip(_SQUARE, _GRAM, strict=True))
    return wide * n * n * m + cubed * n * n * n


def multiplying(s: Scene, load: Load) -> Number:
    """Seconds of a step in which the slowest rank of the stage orthogonalizes.

    Whole matrices are dealt out by Megatron's layer-wise optimizer, and by DeepSpeed's ZeRO-3 of one bucket after the
    other. Below, DeepSpeed cuts a flat buffer, and a rank does each matrix that its part begins or ends in: one more,
    of the largest, on both ends together (ours).
    """
    found = list(_matrices(s, load))
    whole = sum((one.count * one.seconds for one in found), 0.0)
    even = sum((one.count * one.seconds / _ranks(s, one) for one in found), 0.0)
    largest = maximum(0.0, *((one.count > 0) * one.seconds * one.unit for one in found))
    return where(s.layout.zero == 0, whole, _dealt(s, found, even, largest))


def _dealt(s: Scene, found: list[_Matrices], even: Number, largest: Number) -> Number:
    if s.layout.backend.name == "megatron":
        return maximum(even, largest)
    buckets = -(-sum(one.count * one.n * one.m for one in found) // s.layout.backend.deepspeed.reduce_bucket)
    return where(s.layout.zero == 3, maximum(even, buckets * largest), even + (s.replicas > 1) * largest)


def gathering(s: Scene, load: Load) -> Number:
    """Seconds in which the ranks of a stage gather what they orthogonalize."""
    megatron = s.layout.backend.name == "megatron"
    groups = weight_groups(s) if megatron else (data_group(s), expert_data_group(s))
    sizes = gathered(s, load)
    return sum((g.size > 1) * (size > 0) * ring(s, g, size) for g, size in zip(groups, sizes, strict=True))


def gathered(s: Scene, load: Load) -> tuple[Number, Number]:
    """Bytes of (dense, experts') matrices that one rank receives in a step, were none its own."""
    found, parts, zero = list(_matrices(s, load)), s.degrees.parts, s.layout.zero
    dense, experts = (
        sum((one.count * one.n * one.m for one in found if one.expert is expert), 0 * load.layers)
        for expert in (False, True)
    )
    if s.layout.backend.name == "deepspeed":
        each = _GATHERS * s.framework.reduce_bytes * (zero == 3)
        return each * dense, each * experts
    shared = where(zero >= 1, s.replicas, 1), where(zero >= 1, s.edp, 1)
    return 4 * (parts.dense > 1) * dense / shared[0], 4 * (parts.expert > 1) * experts / shared[1]


def _ranks(s: Scene, one: _Matrices) -> Number:
    return s.edp if one.expert else s.replicas


def _matrices(s: Scene, load: Load) -> Iterator[_Matrices]:
    """Of a stage; none where another optimizer steps. Embedding and head are Adam's."""
    if s.layout.training.optimizer.name != "muon":
        return
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
    ways = d.etp if expert else d.tp if w.shard == "tp" else 1
    columns, copies = w.elements // w.rows, w.copies // d.ep if expert else 1
    unit = copies if s.layout.backend.name == "deepspeed" else 1
    for rows in _rows(s, operation, w):
        sides = (rows, columns / ways) if w.inputs_cut else (rows / ways, columns)
        n, m = minimum(*sides), maximum(*sides)
        yield _Matrices(times * copies, n, m, expert, _seconds(s, n, m), unit)


def _rows(s: Scene, operation: Operation, w: Weight) -> tuple[Number, ...]:
    """Of the matrices that one weight stands for: transformers' modules keep a gate and what it gates apart, too."""
    model = s.layout.model
    if operation.name == "attention.qkv":
        keys = model.kv_heads * model.head_dim
        return w.rows - 2 * keys, keys, keys
    apart = s.layout.backend.name == "deepspeed" and model.gated and w.shard == "tp" and operation.name.endswith(".up")
    return (w.rows / 2, w.rows / 2) if apart else (w.rows,)


def _seconds(s: Scene, n: Number, m: Number) -> Number:
    """Of one matrix: products, what they read and write in 16 bits, their starts."""
    gpu, e, gram = s.layout.cluster.accelerator, s.layout.cluster.efficiency, s.layout.backend.name == "deepspeed"
    moved = 2 * (6 * n * m + 46 * n * n if gram else _STEPS * (3 * n * m + 4 * n * n))
    rate = gpu.memory_bandwidth_gb_s * 1e9 * e.memory
    return flops(n, m, gram) / (gpu.bf16_tflops * 1e12 * e.matmul) + moved / rate + _PRODUCTS * e.kernel_us * 1e-6
