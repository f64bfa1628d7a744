"""What Muon's orthogonalization takes of a step on Megatron: products, and what tensor-parallel ranks gather for it.

Newton and Schulz's iteration on m*n of a momentum, m <= n, multiplies X X', its square, and both with X: 4*m*m*n +
2*m**3 FLOPs a step, in bf16 or TF32 (Emerging-Optimizers 0.2, orthogonalized_optimizers/muon_utils.py).
A rank does so for the matrices that it steps: its share of the replicas' under the layer-wise optimizer, else all.
Matrices that tensor parallelism keeps whole are small and left out, as is what generalized tensor parallelism gathers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshwright.cost.collectives import Group, group, ring
from meshwright.cost.inputs import Load, Scene, held
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.model.operations import Operation, mtp_joint
from meshwright.spec.frozen import dataclass
from meshwright.spec.techniques import MuonOptions

__all__ = ["orthogonalizes", "seconds", "sent"]


@dataclass(frozen=True)
class _Matrix:
    """Of the whole weight: the side that ranks of ``group`` cut, and the other; how many of it a rank steps."""

    cut: Number
    other: Number
    group: Group
    count: Number


def orthogonalizes(s: Scene) -> bool:
    """Whether Megatron's Muon steps matrices."""
    return s.layout.backend.name == "megatron" and s.layout.training.optimizer.name == "muon"


def seconds(s: Scene, load: Load) -> Number:
    """On one rank of the stage ``load``, in one step."""
    return _total(s, load, _seconds)


def sent(s: Scene, load: Load) -> Number:
    """Bytes that one rank of the stage ``load`` sends to tensor-parallel ones, in one step."""
    return _total(s, load, _sent)


def _total(s: Scene, load: Load, each: Callable[[Scene, _Matrix], Number]) -> Number:
    if not orthogonalizes(s):
        return 0 * load.layers
    load = held(s, load)
    layers = [sum(each(s, one) for one in _matrices(s, operations)) for operations in s.layers]
    joint = sum(each(s, one) for one in _matrices(s, mtp_joint(s.layout.model))) if s.layout.model.mtp else 0
    return load.total(layers) + load.mtp * joint


def _options(s: Scene) -> MuonOptions:
    return s.layout.backend.megatron.muon


def _matrices(s: Scene, operations: tuple[Operation, ...]) -> Iterator[_Matrix]:
    r = s.layout
    dense, expert = group(s, r.tp, 1), group(s, r.etp, 1)
    for weight in (w for o in operations for w in o.weights if not isinstance(w.rows, int) or w.rows):
        routed = weight.shard == "expert"
        ways = where(r.zero >= 1, s.edp if routed else s.replicas, 1)
        count = (weight.copies / r.ep if routed else 1) / ways
        columns = weight.elements / weight.rows
        for rows in _split(s, weight.name, weight.rows):
            sides = (columns, rows) if weight.inputs_cut else (rows, columns)
            yield _Matrix(*sides, expert if routed else dense, count)


def _split(s: Scene, name: str, rows: Number) -> tuple[Number, ...]:
    """Queries, keys and values, where they are matrices of their own (latent attention's are, anyway)."""
    model = s.layout.model
    if name != "attention.qkv.weight" or not _options(s).split_qkv:
        return (rows,)
    keys = model.kv_heads * model.head_dim
    return rows - 2 * keys, keys, keys


def _seconds(s: Scene, one: _Matrix) -> Number:
    options, gpu, e = _options(s), s.layout.cluster.accelerator, s.layout.cluster.efficiency
    rate = (gpu.bf16_tflops if options.products == "medium" else gpu.fp32_tflops) * 1e12 * e.matmul
    started = 3 * e.kernel_us * 1e-6
    messages, size = _gathered(s, one)
    exchanged = messages * (one.group.size > 1) * ring(s, one.group, size)
    return one.count * (options.steps * (_flops(s, one) / rate + started) + exchanged)


def _flops(s: Scene, one: _Matrix) -> Number:
    """Of one step of the iteration: on the rank's own part, on the whole, or on its part of the whole."""
    mode, part = _options(s).tp_mode, one.cut / one.group.size
    if mode == "distributed":
        return 4 * one.other**2 * part + 2 * one.other**3
    here = part if mode == "blockwise" else one.cut
    short, long = minimum(here, one.other), maximum(here, one.other)
    return 4 * short**2 * long + 2 * short**3


def _gathered(s: Scene, one: _Matrix) -> tuple[int, Number]:
    """(gatherings or scatterings, bytes of one): the momentum in fp32, or in every step all ranks' sum of X X'."""
    options = _options(s)
    if options.tp_mode == "blockwise":
        return 0, 0 * one.cut
    if options.tp_mode == "duplicated":
        return 1, 4 * one.cut * one.other
    return 2 * options.steps, (2 if options.products == "medium" else 4) * one.other**2


def _sent(s: Scene, one: _Matrix) -> Number:
    messages, size = _gathered(s, one)
    return one.count * messages * size * (one.group.size - 1) / one.group.size
