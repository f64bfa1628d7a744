"""What mamba_ssm and flash-linear-attention do in kernels, by PyTorch: for machines without a GPU.

Megatron imports both and refuses to build a layer without them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GatedNorm", "convolved", "install", "scan", "split_conv1d_scan"]


def install() -> None:
    """Give Megatron's Mamba and delta nets these instead of the kernels it did not find."""
    from megatron.core.ssm import mamba_mixer
    from megatron.core.ssm.gated_delta_net import common, gdn

    mamba_mixer.HAVE_MAMBA_SSM = mamba_mixer.HAVE_EINOPS = common.HAVE_FLA = True
    mamba_mixer.ExtendedRMSNorm = GatedNorm
    mamba_mixer.mamba_split_conv1d_scan_combined = split_conv1d_scan
    common.l2norm = lambda x: functional.normalize(x, dim=-1, eps=1e-6)
    gdn.causal_conv1d = _causal_conv1d
    gdn.chunk_gated_delta_rule = common.torch_chunk_gated_delta_rule  # Megatron's own, for deterministic runs


def _causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
    return convolved(x, weight, bias), None


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``[batch, tokens, channels]``, each channel convolved over time with its row of ``weight``, then SiLU."""
    channels, width = weight.shape
    out = functional.conv1d(x.transpose(1, 2), weight.unsqueeze(1), bias, padding=width - 1, groups=channels)
    return functional.silu(out[..., : x.shape[1]]).transpose(1, 2)


def scan(x: Tensor, step: Tensor, decay: Tensor, written: Tensor, read: Tensor) -> Tensor:
    """The scan of Mamba-2 in its quadratic form, as masked attention (arXiv:2405.21060, section 3): short sequences.

    ``x``: ``[batch, tokens, heads, channels]``; ``step``: ``[batch, tokens, heads]``; ``decay``: ``[heads]``, negative;
    ``written``, ``read``: ``[batch, tokens, groups, state]``, which the heads of a group share. Returns as ``x``.
    """
    heads_a_group = x.shape[2] // written.shape[2]
    faded = (step * decay).cumsum(1).transpose(1, 2)  # [batch, heads, tokens]
    between = faded.unsqueeze(-1) - faded.unsqueeze(-2)
    seen = torch.ones(between.shape[-2:], dtype=torch.bool).tril()
    scores = torch.einsum("bqgn,bkgn->bgqk", read, written).repeat_interleave(heads_a_group, 1)
    weights = scores * between.masked_fill(~seen, -torch.inf).exp()
    return torch.einsum("bhqk,bkhp->bqhp", weights, x * step.unsqueeze(-1))


def split_conv1d_scan(
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    step_bias: Tensor,
    decay: Tensor,
    D: Tensor,  # noqa: N803 - the name in mamba_ssm
    headdim: int,
    ngroups: int,
    **_: Any,
) -> Tensor:
    """``mamba_ssm.ops.triton.ssd_combined.mamba_split_conv1d_scan_combined`` as Megatron calls it.

    ``projected``: ``[batch, tokens, gate + mixed + heads]``. Returns ``[batch, tokens, heads * headdim]``, gated.
    """
    heads, mixed = D.numel(), weight.shape[0]
    inner = heads * headdim
    gate, x, step = torch.split(projected, [inner, mixed, heads], dim=-1)
    x, *states = torch.split(convolved(x, weight, bias), [inner, (mixed - inner) // 2, (mixed - inner) // 2], dim=-1)
    x = x.reshape(*x.shape[:2], heads, headdim)
    written, read = (part.reshape(*part.shape[:2], ngroups, -1) for part in states)
    out: Tensor = scan(x, functional.softplus(step + step_bias), decay, written, read) + x * D.unsqueeze(-1)
    return out.flatten(2) * functional.silu(gate)


class GatedNorm(nn.Module):
    """RMSNorm over groups of channels, cut over tensor-parallel ranks; its gate was applied before."""

    def __init__(self, size: int, eps: float, group_size: int, **_: Any) -> None:
        """Take mamba_ssm's arguments; ``size`` and ``group_size`` are this rank's."""
        super().__init__()
        self.eps, self.group_size, self.tp_group = eps, group_size, None
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        grouped = x.reshape(*x.shape[:-1], -1, self.group_size)
        return functional.rms_norm(grouped, (self.group_size,), eps=self.eps).flatten(-2) * self.weight

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """Cut along its one axis, as megatron/core/ssm/mamba_mixer.py's ``ExtendedRMSNorm`` says."""
        from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

        groups = {"tp_group": self.tp_group, "dp_cp_group": metadata["dp_cp_group"]}
        state = self.state_dict(prefix="", keep_vars=True)
        return make_sharded_tensors_for_checkpoint(state, prefix, {"weight": 0}, sharded_offsets, **groups)


def without_random_state() -> None:
    """Initial values on the meta device need no generator; Megatron's asks for seeds first."""
    from types import SimpleNamespace

    from megatron.core.ssm import mamba_mixer
    from megatron.core.ssm.gated_delta_net import common
    from megatron.core.tensor_parallel import random

    untouched = SimpleNamespace(fork=contextlib.nullcontext)
    mamba_mixer.get_cuda_rng_tracker = common.get_cuda_rng_tracker = lambda: untouched
    random.get_cuda_rng_tracker = lambda: untouched
