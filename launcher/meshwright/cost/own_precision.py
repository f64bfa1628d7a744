"""Products whose modules have a precision of their own (``quantization.modules``): in which part of the layers.

A module's number counts on its chunk, so that one glob may mean a layer of every chunk; parts are even over stages.
"""

from __future__ import annotations

from meshwright.model.kinds import count_kinds, kinds
from meshwright.model.low_precision import element_bytes
from meshwright.model.megatron_classes import is_hybrid
from meshwright.model.module_names import MODULES, names, shares
from meshwright.model.operations import decoder_layer
from meshwright.rules import Layout

__all__ = ["coded_part", "kept_bytes", "own_precision"]

Shares = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


def own_precision(layout: Layout) -> Shares:
    """By operation: (precision, part of the layers), for those that a glob matches."""
    rules = layout.backend.megatron.quantization.modules
    if not rules:
        return ()
    hybrid, count = is_hybrid(layout.model, layout.backend.megatron), _of_chunk(layout)
    found = {name: shares(rules, names(name, count, layout.model.mtp, hybrid)) for name in MODULES}
    return tuple((name, tuple(each.items())) for name, each in found.items() if each)


def kept_bytes(layout: Layout) -> tuple[tuple[str, float], ...]:
    """By operation: bytes of an element of its input that is kept for the backward pass, over the layers."""
    usual = element_bytes(layout.training.precision)
    return tuple(
        (name, sum(part * element_bytes(kind) for kind, part in each) + (1 - sum(part for _, part in each)) * usual)
        for name, each in own_precision(layout)
    )


def coded_part(layout: Layout) -> float:
    """Of the weights of decoder layers, the part that is in 8 or 4 bits where all layers' are."""
    plain = {name: dict(each).get("bf16", 0.0) for name, each in own_precision(layout)}
    if not any(plain.values()):
        return 1.0
    counts, bf16, everything = count_kinds(layout.model, 0, layout.model.layers), 0.0, 0.0
    for kind in kinds(layout.model):
        for operation in decoder_layer(layout.model, kind):
            elements = counts.get(kind, 0) * sum(w.elements * w.copies for w in operation.weights)
            bf16, everything = bf16 + plain.get(operation.name, 0.0) * elements, everything + elements
    return 1 - bf16 / everything


def _of_chunk(layout: Layout) -> int:
    """Layers of one; where many layouts are looked at, as if there were no pipeline."""
    chunks = layout.pp * layout.vpp
    return int(-(-layout.model.layers // chunks)) if isinstance(chunks, int) else int(layout.model.layers)
