"""A block that was looked at and not described: its numbers stand in ``model.measured``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from meshwright.model.layers.part import LayerKind, Part
from meshwright.model.operation import Operation, Tensor, Weight
from meshwright.spec.measured import MeasuredLayer
from meshwright.spec.model import Model

__all__ = ["measured_kind", "measured_part", "small_measured"]

_PREFIX = "measured "


def measured_kind(index: int) -> LayerKind:
    """The kind of a layer that is ``model.measured.kinds[index]``."""
    return LayerKind(mixer=f"{_PREFIX}{index}")


@lru_cache(maxsize=64)
def measured_part(name: str) -> Part | None:
    """The part that such a kind names; None for other names."""
    if not name.startswith(_PREFIX):
        return None
    index = int(name.removeprefix(_PREFIX))
    return Part(symbol="", operations=lambda model, _: _operations(_layer(model, index)), norm="")


def _layer(model: Model, index: int) -> MeasuredLayer:
    assert model.measured is not None
    return model.measured.kinds[index]


def _operations(layer: MeasuredLayer) -> Iterator[Operation]:
    """Weights that add up to the parameters exactly, and products that add up to the FLOPs.

    What is multiplied more than its parameters say (scans, weights used twice) is a weight of which there are 0 copies.
    """
    each = layer.expert_parameters // layer.experts
    dense = layer.parameters - layer.expert_parameters
    products = max(0, layer.flops // 2 - layer.topk * each)
    matrices = min(dense, products)
    yield Operation(
        "measured.layer",
        (
            Weight("products.weight", matrices, "replicated"),
            Weight("rest.bias", dense - matrices, "replicated"),
            Weight("reused.weight", products - matrices, "replicated", copies=0),
        ),
        saved=(Tensor(layer.saved, "replicated"), Tensor(layer.saved_squared, "replicated", squared=True)),
        moved=(Tensor(layer.moved, "replicated"), Tensor(layer.moved_squared, "replicated", squared=True)),
        scores=layer.scores,
        kernels=layer.kernels,
    )
    if layer.expert_parameters:
        yield Operation("experts.measured", (Weight("experts.up", each, "expert", layer.experts),), topk=layer.topk)


SMALL_VOCABULARY, SMALL_POSITIONS = 256, 256
"""What small configurations are made with: bytes, and more tokens than a rehearsal trains on at once."""


def small_measured(model: Model) -> Model | None:
    """``model`` with the small configuration of its class; its layers keep the numbers of the large one.

    None where no such configuration was found to train.
    """
    measured = model.measured
    if measured is None or measured.miniature is None:
        return None
    small = replace(measured, config=measured.miniature, miniature=None)
    return replace(model, vocab=SMALL_VOCABULARY, max_positions=SMALL_POSITIONS, measured=small)
