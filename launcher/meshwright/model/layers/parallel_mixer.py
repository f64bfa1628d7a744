"""Attention and Mamba-2 side by side: both read one norm's output, and what they give is added (arXiv:2507.22448).

Each has its own products, so its own exchanges in a tensor-parallel group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.model.layers.attention import ATTENTION, attention
from meshwright.model.layers.mamba import MAMBA, mamba, projected
from meshwright.model.layers.part import Exchange, Part
from meshwright.model.operation import Kernels, Operation, Tensor
from meshwright.spec.model import Model

__all__ = ["PARALLEL_MIXER"]


def _parallel(model: Model, kernels: Kernels) -> Iterator[Operation]:
    """The norm is a module of its own, which no linear layer is joined to."""
    apart = replace(kernels, joined=False)
    yield from attention(model, apart)
    yield from mamba(model, apart)
    yield _sum(model)


def _sum(model: Model) -> Operation:
    """Both outputs added; with factors one more input is kept, and each factor reads and writes what it scales."""
    moved = [Tensor(6 * model.hidden, "sequence")]
    saved: tuple[Tensor, ...] = ()
    if model.multipliers is not None and model.mamba is not None:
        saved = (Tensor(2 * model.hidden, "gathered"),)
        moved += [Tensor(12 * model.hidden, "sequence"), Tensor(4 * projected(model.mamba), "tp")]
    return Operation("parallel_mixer.sum", saved=saved, moved=tuple(moved), kernels=5 if saved else 1)


def _exchange(model: Model) -> Exchange:
    return replace(ATTENTION.exchange(model), dealt=MAMBA.exchange(model).dealt)


PARALLEL_MIXER = Part(
    symbol="P",
    options=("mamba",),
    extras=("multipliers",),
    operations=_parallel,
    norm="parallel_mixer.norm",
    own_norm=True,
    pairs=2,
    exchange=_exchange,
    widest=MAMBA.widest,
)
