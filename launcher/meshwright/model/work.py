"""FLOPs of operations for one token, and what each part of a model weighs when it is cut into pipeline stages."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.layout.balance import Work
from meshwright.model.count import active, active_parameters
from meshwright.model.kinds import count_kinds, kinds, layer_kinds
from meshwright.model.operations import Operation, decoder_layer, head, mtp_layer
from meshwright.spec.model import Model

__all__ = ["forward_flops", "is_matrix", "palm_flops", "pipeline_work"]


def is_matrix(name: str) -> bool:
    """Whether the weight called ``name`` is multiplied with, and not added, scaled by or looked up."""
    added = ("bias", "alpha", "decay", "skip", "idle")
    return "norm" not in name and not name.endswith(added) and not name.startswith("embedding")


def forward_flops(o: Operation, sequence: int, causal: bool = False) -> int:
    """FLOPs of one token's forward pass through ``o``; ``causal`` counts half of attention's products."""
    products = 2 * (o.topk * sum(w.elements for w in o.weights if is_matrix(w.name)) + o.products)
    return products + 2 * sequence * o.scores // (2 if causal else 1)


def pipeline_work(model: Model, sequence: int) -> Work:
    """Forward FLOPs of one token; each MTP layer uses the head once more, where the loss is."""

    def flops(operations: Iterable[Operation]) -> float:
        return float(sum(forward_flops(o, sequence, causal=True) for o in operations))

    of_kind = {kind: flops(decoder_layer(model, kind)) for kind in kinds(model)}
    layers = tuple(of_kind[kind] for kind in layer_kinds(model))
    return Work(layers, flops(mtp_layer(model)), flops(head(model, model.vocab, False)) * (1 + model.mtp))


def palm_flops(model: Model, sequence: int, causal: bool = False) -> float:
    """FLOPs of one token, forward and backward, as PaLM counts them (arXiv:2204.02311, appendix B).

    6 a parameter and 12 a layer, a head's channel and a token looked at, of which ``causal`` counts half; embeddings'
    look-ups are free. Each layer of multi-token prediction runs the head once more.
    """
    lookup = 0 if model.tied_embeddings else model.vocab * model.hidden
    tabled = model.positions in ("learned", "sinusoidal_table")
    positions = model.position_rows * model.hidden if tabled else 0
    again = model.mtp * (active(mtp_layer(model), model) + model.vocab * model.hidden) if model.mtp else 0
    layers = [(decoder_layer(model, kind), count) for kind, count in count_kinds(model, 0, model.layers).items()]
    layers += [(mtp_layer(model), model.mtp)] if model.mtp else []
    idle = sum(w.elements * n for layer, n in layers for o in layer for w in o.weights if w.name.endswith(".idle"))
    weights = active_parameters(model) + again - lookup - positions - idle
    seen = sum(o.scores * min(sequence, o.window or sequence) * count for layer, count in layers for o in layer)
    scanned = sum(o.products * count for layer, count in layers for o in layer)
    return 6.0 * (weights + scanned + seen / (2 if causal else 1))
