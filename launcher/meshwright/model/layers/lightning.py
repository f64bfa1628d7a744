"""Lightning attention: linear attention whose states fade by a constant of each head, gated (arXiv:2401.04658).

As transformers' MiniMax has it: as many heads and channels as the model's attention, SiLU on queries, keys and values,
and a norm of all heads at once before the gate. Our layer of Megatron works on blocks of tokens (train/lightning.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.model.layers.part import Part
from meshwright.model.layers.shared import linear
from meshwright.model.operation import Kernels, Operation, Tensor, Weight
from meshwright.spec.model import Model

__all__ = ["BLOCK", "LIGHTNING"]

BLOCK = 256
"""Tokens that multiply with each other, and then with the state of those before (models/minimax: ``block_size``)."""


def _lightning(model: Model, kernels: Kernels) -> Iterator[Operation]:
    width = _width(model)
    yield linear("lightning.input", model.hidden, 4 * width)
    yield Operation("lightning.activation", saved=(Tensor(6 * width, "tp"),), moved=(Tensor(12 * width, "tp"),))
    yield _states(model)
    weight = (Weight("lightning.output_norm.weight", width, "tp"),)
    yield Operation("lightning.output_norm", weight, (Tensor(2 * width, "tp"),), (Tensor(4 * width, "tp"),))
    gated = (Tensor(4 * width, "tp"), Tensor(kernels.input_bytes("lightning.output") * width, "tp"))
    yield Operation("lightning.gate", saved=gated, moved=(Tensor(6 * width, "tp"),))
    yield linear("lightning.output", width, model.hidden, row=True)


def _states(model: Model) -> Operation:
    """Products within a block, of which half is behind the mask, and with the state, which is read and written.

    Keeps queries, keys and values, and what tokens of a block are to each other before and behind their decay.
    """
    width, pairs = _width(model), model.heads * BLOCK
    states = 4 * width * model.head_dim // BLOCK
    saved = (Tensor(6 * width + 4 * pairs, "tp"), Tensor(2 * states, "tp"))
    moved = (Tensor(8 * width + 8 * pairs + 2 * states, "tp"),)
    products = width * (BLOCK + 2 * model.head_dim)
    return Operation("lightning.core", saved=saved, moved=moved, products=products, kernels=8)


def _width(model: Model) -> int:
    return model.heads * model.head_dim


LIGHTNING = Part(
    symbol="L",
    operations=_lightning,
    norm="lightning.norm",
    widest=lambda model: 4 * _width(model),
)
