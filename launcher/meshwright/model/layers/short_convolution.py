"""Short convolutions, gated on both sides: LFM2's mixer (transformers 5.24, models/lfm2/modeling_lfm2.py).

Three projections of a token: what enters the convolution, its gate, and the gate of what leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.model.layers.part import Part
from meshwright.model.layers.shared import linear
from meshwright.model.operation import Kernels, Operation, Tensor, Weight
from meshwright.spec.model import Model

__all__ = ["SHORT_CONVOLUTION"]


def _short_convolution(model: Model, kernels: Kernels) -> Iterator[Operation]:
    assert model.short_convolution is not None
    wide = model.hidden
    yield linear("short_convolution.input", wide, 3 * wide, behind_norm=kernels.joined)
    yield Operation("short_convolution.gate", saved=(Tensor(4 * wide, "tp"),), moved=(Tensor(6 * wide, "tp"),))
    weights = (Weight("short_convolution.kernel.weight", model.short_convolution.kernel * wide, "tp"),)
    convolved = Tensor(2 * wide, "tp")  # what enters it is kept; what leaves, too, and its gate, to be multiplied
    yield Operation("short_convolution.kernel", weights, (convolved,), (Tensor(4 * wide, "tp"),))
    gated = (Tensor(4 * wide, "tp"), Tensor(kernels.input_bytes("short_convolution.output") * wide, "tp"))
    yield Operation("short_convolution.output_gate", saved=gated, moved=(Tensor(6 * wide, "tp"),))
    yield linear("short_convolution.output", wide, wide, row=True)


SHORT_CONVOLUTION = Part(
    symbol="C",
    options=("short_convolution",),
    operations=_short_convolution,
    norm="short_convolution.norm",
    widest=lambda model: 3 * model.hidden,
)
