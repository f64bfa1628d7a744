"""Mamba-2: a convolution and a scan over states, gated (arXiv:2405.21060).

Parameters as megatron/core/ssm/mamba_mixer.py makes them; tensors kept for the backward as mamba_ssm's
``MambaSplitConv1dScanCombinedFn`` keeps them: what was projected, and what the scan gave.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.model.layers.part import Exchange, Part
from meshwright.model.layers.shared import linear
from meshwright.model.operation import Kernels, Operation, Tensor, Weight
from meshwright.spec.model import Mamba, Model

__all__ = ["MAMBA", "mamba", "projected"]

CHUNK = 128  # tokens that the scan works on at once (megatron/core/ssm/mamba_mixer.py, chunk_size)


def mamba(model: Model, kernels: Kernels) -> Iterator[Operation]:
    """Projection, convolution, scan, and a norm where there is one."""
    mamba = _options(model)
    inner, mixed = mamba.heads * mamba.head_dim, _mixed(mamba)
    yield linear("mamba.input", model.hidden, projected(mamba))
    convolution = (
        Weight("mamba.convolution.weight", mixed * mamba.kernel, "tp"),
        Weight("mamba.convolution.bias", mixed, "tp"),
    )
    once = (Tensor(4 * mixed, "tp"),)
    yield Operation("mamba.convolution", convolution, moved=once, returned=once)  # the backward does it again first
    yield _scan(mamba)
    if mamba.norm:
        normed = (Tensor(2 * inner, "tp"), Tensor(kernels.input_bytes("mamba.output") * inner, "tp"))
        weight = (Weight("mamba.output_norm.weight", inner, "tp"),)
        yield Operation("mamba.output_norm", weight, normed, (Tensor(6 * inner, "tp"),))  # it reads the gate, too
    yield linear("mamba.output", inner, model.hidden, row=True, saves=None if mamba.norm else "tp")


def _scan(mamba: Mamba) -> Operation:
    """By chunks; its products are those Megatron counts, seven operations a channel of a state (training.py:489).

    What its kernels read and write is ``_mamba_chunk_scan_combined_fwd``'s and ``_bwd``'s (mamba_ssm 2.2,
    ops/triton/ssd_combined.py): chunks' states in fp32, passed on and written anew in 16 bits, and what a chunk's
    tokens read of one another; the backward makes all of it again before its own gradients. On H100 a forward over
    8,192 tokens of 128 heads (64 channels, states of 128) takes 0.65 ms (vllm-project/vllm#27299), as by this count.
    """
    inner = mamba.heads * mamba.head_dim
    names = ("mamba.step.bias", "mamba.decay", "mamba.skip")
    weights = tuple(Weight(name, mamba.heads, "tp") for name in names)
    saved = (Tensor(2 * projected(mamba), "tp"), Tensor(2 * inner, "tp"))
    states, chunk = inner * mamba.state / CHUNK, 4 * CHUNK * mamba.groups
    forward = 6 * inner + 12 * states + 2 * chunk
    backward = 22 * inner + 34 * states + 4 * chunk
    moved, returned = (Tensor(forward, "tp"),), (Tensor(max(0, backward - 2 * forward), "tp"),)
    turned = (Tensor(4 * projected(mamba) + 4 * inner, "tp"),)  # sequences before tokens, and back (mamba_mixer.py:682)
    products = 7 * inner * mamba.state // 2
    return Operation("mamba.core", weights, saved, moved, returned, turned, products=products, kernels=6)


def _options(model: Model) -> Mamba:
    assert model.mamba is not None
    return model.mamba


def _mixed(mamba: Mamba) -> int:
    """Channels that the convolution mixes over time: the input, and what each group writes to and reads from states."""
    return mamba.heads * mamba.head_dim + 2 * mamba.groups * mamba.state


def projected(mamba: Mamba) -> int:
    """Channels of the first projection: with an output gate, and one number a head: how far a token moves the state."""
    return _mixed(mamba) + mamba.heads * mamba.head_dim + mamba.heads


def _exchange(model: Model) -> Exchange:
    """Whole sequences of a rank's heads (megatron/core/ssm/mamba_context_parallel.py)."""
    mamba = _options(model)
    return Exchange(dealt=projected(mamba) + mamba.heads * mamba.head_dim)


MAMBA = Part(
    symbol="M",
    options=("mamba",),
    operations=mamba,
    norm="mamba.norm",
    exchange=_exchange,
    widest=lambda model: projected(_options(model)),
)
