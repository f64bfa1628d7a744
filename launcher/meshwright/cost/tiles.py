"""A micro-batch's tokens in pieces, as ``backend.deepspeed.tiling`` has them: what is kept, and computed again.

DeepSpeed 0.19.8, runtime/sequence_parallel/ulysses_sp.py. Of a dense MLP its input alone is kept for the backward; of
the loss, the hidden states. Each piece is computed in the forward and again, with its gradients, in the backward.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number
from meshwright.model.layers import Part
from meshwright.model.layers.mlp import MLP
from meshwright.model.operations import Operation

__all__ = ["in_tiles", "input_width", "widest"]


def in_tiles(s: Scene, o: Operation) -> bool:
    """Whether pieces of the tokens pass ``o`` one after the other: a dense MLP behind its norm."""
    return s.framework.tiles[1] > 1 and o.name.startswith("mlp.") and o.name != "mlp.norm"


def input_width(s: Scene, operations: Sequence[Operation]) -> Number:
    """Bytes of 16 bits that a token's input to the pieces takes; 0 without any."""
    return 2 * s.layout.model.hidden if any(in_tiles(s, o) for o in operations) else 0


def widest(s: Scene, part: Part) -> Number:
    """Channels of the part's widest operation; of a dense MLP in pieces, all that one of them keeps meanwhile.

    Its products' outputs and the activation's, which are one and a half times a gated MLP's widest, are kept at once.
    """
    width, pieces = part.widest(s.layout.model) * (s.degrees.load if part.routed else 1), s.framework.tiles[1]
    return width if part is not MLP or pieces == 1 else 2 * width / pieces
