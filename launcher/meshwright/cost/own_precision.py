"""Products whose modules have a precision of their own (``quantization.modules``): in which part of the layers.

A module's number counts on its chunk, so that one glob may mean a layer of every chunk; parts are even over stages. Of
layers that Megatron keeps in bf16 by itself a rule changes nothing, so that they are counted apart, once:
``override_nonquantized_autocast`` is off (megatron-core 0.19.2 core/extensions/transformer_engine.py:156).
"""

from __future__ import annotations

from meshwright.model.kinds import count_kinds, kinds
from meshwright.model.low_precision import element_bytes
from meshwright.model.megatron_classes import is_hybrid, predicts_in_bf16
from meshwright.model.module_names import MODULES, names, shares
from meshwright.model.operations import decoder_layer
from meshwright.rules import Layout

__all__ = ["coded_part", "kept_bytes", "own_precision"]

Shares = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


def own_precision(layout: Layout) -> Shares:
    """By operation: (precision, part of the layers that are quantized), for those that a glob matches."""
    rules = layout.backend.megatron.quantization.modules
    if not rules:
        return ()
    found = {name: shares(rules, _quantized(name, layout)) for name in MODULES}
    return tuple((name, tuple(each.items())) for name, each in found.items() if each)


def kept_bytes(layout: Layout, quantized: float) -> tuple[tuple[str, float], ...]:
    """By operation: bytes of an element of its input that is kept for the backward pass, over the layers.

    ``quantized``: part of the layers that are not kept in bf16.
    """
    usual = element_bytes(layout.training.precision)
    return tuple(
        (name, quantized * _mean(each, usual) + (1 - quantized) * element_bytes("bf16"))
        for name, each in own_precision(layout)
    )


def _mean(each: tuple[tuple[str, float], ...], usual: float) -> float:
    """Bytes of an element, ``usual`` where no rule says otherwise."""
    return usual + sum(part * (element_bytes(kind) - usual) for kind, part in each)


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


def _quantized(operation: str, layout: Layout) -> list[str]:
    """Names of its modules, chunk by chunk, without layers that stay in bf16 whatever a rule says."""
    model, options = layout.model, layout.backend.megatron
    ahead = 0 if predicts_in_bf16(model, options, layout.training.precision) else model.mtp
    first, last = options.quantization.first_layers_bf16, model.layers - options.quantization.last_layers_bf16
    count = _of_chunk(layout)
    return list(names(operation, (i % count for i in range(first, last)), ahead, is_hybrid(model, options)))


def _of_chunk(layout: Layout) -> int:
    """Layers of one; where many layouts are looked at, as if there were no pipeline."""
    chunks = layout.pp * layout.vpp
    return int(-(-layout.model.layers // chunks)) if isinstance(chunks, int) else int(layout.model.layers)
