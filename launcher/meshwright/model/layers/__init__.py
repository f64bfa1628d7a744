"""The kinds of parts that layers are made of, one module each; nothing else branches on a kind.

Parameters per rank follow Transformer Engine's layers in Megatron-core: column- and row-parallel linears are cut
over ``tp``, routed experts over ``etp`` within an expert and ``ep`` between experts, norms and the router are
replicated, and so are MLA's down-projections (``TELinear`` with ``parallel_mode="duplicated"``,
megatron/core/transformer/multi_latent_attention.py). Saved tensors follow Transformer Engine's modules, too; with
other ``Kernels`` they follow Megatron's own and eager PyTorch. All arithmetic is on integers or NumPy arrays.
"""

from __future__ import annotations

from meshwright.model.layers.attention import ATTENTION, WINDOWED_ATTENTION
from meshwright.model.layers.delta_net import DELTA_NET
from meshwright.model.layers.experts import EXPERTS
from meshwright.model.layers.latent_attention import LATENT_ATTENTION
from meshwright.model.layers.lightning import LIGHTNING
from meshwright.model.layers.mamba import MAMBA
from meshwright.model.layers.measured import measured_kind, measured_part
from meshwright.model.layers.mlp import MLP
from meshwright.model.layers.parallel_mixer import PARALLEL_MIXER
from meshwright.model.layers.part import NONE, Exchange, LayerKind, Part
from meshwright.model.layers.short_convolution import SHORT_CONVOLUTION
from meshwright.model.layers.sparse_attention import SPARSE_ATTENTION

__all__ = [
    "FEED_FORWARDS",
    "MIXERS",
    "NONE",
    "Exchange",
    "LayerKind",
    "Part",
    "feed_forward",
    "measured_kind",
    "mixer",
    "parts",
]

MIXERS: dict[str, Part] = {
    "attention": ATTENTION,
    "windowed_attention": WINDOWED_ATTENTION,
    "latent_attention": LATENT_ATTENTION,
    "sparse_attention": SPARSE_ATTENTION,
    "delta_net": DELTA_NET,
    "mamba": MAMBA,
    "short_convolution": SHORT_CONVOLUTION,
    "parallel_mixer": PARALLEL_MIXER,
    "lightning": LIGHTNING,
}
FEED_FORWARDS: dict[str, Part] = {"mlp": MLP, "experts": EXPERTS}
"""By the name in a ``LayerKind``."""


def mixer(kind: LayerKind) -> Part | None:
    """What mixes tokens."""
    return MIXERS.get(kind.mixer) or measured_part(kind.mixer)


def feed_forward(kind: LayerKind) -> Part | None:
    """What works on each token by itself."""
    return FEED_FORWARDS.get(kind.ffn)


def parts(kind: LayerKind) -> tuple[Part, ...]:
    """Those of the two that the layer has, in order."""
    return tuple(part for part in (mixer(kind), feed_forward(kind)) if part is not None)
