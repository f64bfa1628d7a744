"""The matrices of a stage, as an optimizer that steps matrices finds them on one rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.cost.collectives import Group, group
from meshwright.cost.inputs import Load, Scene, built
from meshwright.cost.numbers import Number, maximum
from meshwright.model.operations import Operation, Weight, mtp_joint
from meshwright.spec.frozen import dataclass

__all__ = ["Matrices", "dealt", "matrices", "on_megatron", "sharers"]


@dataclass(frozen=True)
class Matrices:
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


def on_megatron(s: Scene) -> bool:
    """Whether it is Megatron that steps them."""
    return s.layout.backend.name == "megatron"


def sharers(s: Scene, one: Matrices) -> Number:
    """Ranks over which whole matrices are dealt out."""
    return s.edp if one.expert else s.replicas


def dealt(s: Scene, found: Sequence[tuple[Matrices, Number]]) -> tuple[Number, Number, Number]:
    """Of a number that each one matrix has: the sum over all, its even share, and the largest of one parameter."""
    whole = sum((one.count * each for one, each in found), 0.0)
    even = sum((one.count * each / sharers(s, one) for one, each in found), 0.0)
    return whole, even, maximum(0.0, *((one.count > 0) * each * one.unit for one, each in found))


def matrices(s: Scene, load: Load, optimizer: str) -> Iterator[Matrices]:
    """Of a stage; none where it is not ``optimizer`` that steps. Embedding and head are others'."""
    if s.layout.training.optimizer.name != optimizer:
        return
    load = built(s.layout.model, load)
    for times, operations in zip(load.of_kind, s.layers, strict=True):
        yield from _of_layer(s, operations, times)
    if s.layout.model.mtp:
        yield from _of_layer(s, mtp_joint(s.layout.model), load.mtp)


def _of_layer(s: Scene, operations: tuple[Operation, ...], times: Number) -> Iterator[Matrices]:
    for operation in operations:
        for w in operation.weights:
            if not isinstance(w.rows, int) or w.rows:
                yield from _of_weight(s, operation, w, times)


def _of_weight(s: Scene, operation: Operation, w: Weight, times: Number) -> Iterator[Matrices]:
    d, expert = s.degrees, w.shard == "expert"
    cutting = group(s, d.etp if expert else d.tp if w.shard == "tp" else 1, 1)
    columns, copies = w.elements / w.rows, w.copies / d.ep if expert else 1
    unit = 1 if on_megatron(s) else copies
    for rows in _rows(s, operation, w):
        sides = (columns, rows) if w.inputs_cut else (rows, columns)
        yield Matrices(times * copies, *sides, cutting, expert, unit)


def _rows(s: Scene, operation: Operation, w: Weight) -> tuple[Number, ...]:
    """Of the matrices that one weight stands for: transformers' modules keep a gate and what it gates apart, too."""
    model, megatron = s.layout.model, on_megatron(s)
    if operation.name == "attention.qkv" and (_splits(s) or not megatron):
        keys = model.kv_heads * model.head_dim
        return w.rows - 2 * keys, keys, keys
    apart = not megatron and model.gated and w.shard == "tp" and operation.name.endswith(".up")
    return (w.rows / 2, w.rows / 2) if apart else (w.rows,)


def _splits(s: Scene) -> bool:
    """SOAP takes a parameter as it is."""
    return s.layout.training.optimizer.name == "muon" and s.layout.backend.megatron.muon.split_qkv
