"""Layers that do on a CPU what Transformer Engine's do on a GPU: norms under sequence parallelism, attention under CP.

Megatron's plain layers refuse both: ``WrappedTorchNorm`` sequence parallelism, ``DotProductAttention`` context
parallelism and MLA's unequal head sizes (megatron/core/transformer/torch_norm.py, dot_product_attention.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CpuAttention", "CpuNorm", "GatherSequence", "causal_mask", "positions"]


class CpuNorm(nn.Module):
    """RMSNorm or LayerNorm over the last axis. Under SP its gradients are summed over the TP group: they are marked."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        """Take Megatron's arguments of a norm."""
        super().__init__()
        self.eps, self.rms = eps, config.normalization == "RMSNorm"
        self.offset = 1.0 if config.layernorm_zero_centered_gamma else 0.0
        self.weight = nn.Parameter(torch.full((hidden_size,), 1.0 - self.offset))
        self.bias = None if self.rms else nn.Parameter(torch.zeros(hidden_size))
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        weight = self.weight + self.offset
        if self.rms:
            return nn.functional.rms_norm(x, weight.shape, weight, self.eps)
        return nn.functional.layer_norm(x, weight.shape, weight, self.bias, self.eps)


class GatherSequence(torch.autograd.Function):
    """All-gather along the first axis; backward sums and scatters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """``[s/n, ...] -> [s, ...]``, rank after rank."""
        ctx.group = group
        gathered = x.new_empty((group.size() * x.shape[0], *x.shape[1:]))
        torch.distributed.all_gather_into_tensor(gathered, x.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """``[s, ...] -> [s/n, ...]``."""
        (gradient,) = gradients
        mine = gradient.new_empty((gradient.shape[0] // ctx.group.size(), *gradient.shape[1:]))
        torch.distributed.reduce_scatter_tensor(mine, gradient.contiguous(), group=ctx.group)
        return mine, None


def _gather(x: Tensor, group: Any) -> Tensor:
    gathered: Tensor = GatherSequence.apply(x, group)  # type: ignore[no-untyped-call]
    return gathered


def positions(local: int, cp: int, rank: int) -> Tensor:
    """Positions of the ``local`` tokens of CP rank ``rank``: chunks ``rank`` and ``2 cp - 1 - rank`` of ``2 cp``.

    Source: megatron/core/utils.py ``get_batch_on_this_cp_rank``.
    """
    half = local // 2
    if cp == 1:
        return torch.arange(local)
    late = 2 * cp - 1 - rank
    return torch.cat([torch.arange(rank * half, (rank + 1) * half), torch.arange(late * half, (late + 1) * half)])


def causal_mask(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Who sees whom, ``[queries, keys]``: what came before, not more than ``window`` tokens back."""
    back = queries[:, None] - keys[None, :]
    return (back >= 0) if window is None else (back >= 0) & (back <= window)


class CpuAttention(nn.Module):
    """Causal attention on ``[sequence/cp, batch, heads/tp, channels]``; keys and values are gathered over CP."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        k_channels: int | None = None,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        """Take Megatron's arguments of a core attention."""
        super().__init__()
        from megatron.core import parallel_state
        from megatron.core.transformer.utils import is_layer_window_attention

        group = getattr(pg_collection, "cp", None)
        self.group = parallel_state.get_context_parallel_group() if group is None else group
        self.scale = softmax_scale or 1.0 / math.sqrt(k_channels or config.kv_channels)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        windowed = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number)
        self.window = config.window_size[0] if windowed else None
        self.softmax_offset = _sinks(config) if config.softmax_type == "learnable" else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **_: Any) -> Tensor:
        """``[sequence/cp, batch, heads/tp * channels]``."""
        cp, rank, length = self.group.size(), self.group.rank(), query.shape[0]
        if cp > 1:
            key, value = _gather(key, self.group), _gather(value, self.group)
        seen = torch.cat([positions(length, cp, r) for r in range(cp)])
        mask = causal_mask(positions(length, cp, rank), seen, self.window)
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        if self.softmax_offset is not None:
            return self._with_sinks(query, key, value, mask).permute(2, 0, 1, 3).flatten(2)
        out = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
            enable_gqa=True,
        )
        return out.permute(2, 0, 1, 3).flatten(2)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """For Megatron's checkpoints: sinks are cut along the heads."""
        from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

        state = self.state_dict(prefix="", keep_vars=True)
        return make_sharded_tensors_for_checkpoint(state, prefix, {"softmax_offset": 0}, sharded_offsets)

    def _with_sinks(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """``[batch, heads/tp, sequence/cp, channels]``: each head's softmax has one more score, which sees nothing."""
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        scores = (query @ key.transpose(2, 3)).float() * self.scale
        scores = scores.masked_fill(~mask, -torch.inf)
        assert self.softmax_offset is not None
        sink = self.softmax_offset.float()[None, :, None, None].expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1].to(value.dtype)
        return nn.functional.dropout(weights, self.dropout, self.training) @ value


def _sinks(config: Any) -> nn.Parameter:
    """One score a head, cut as the heads are (megatron/core/transformer/dot_product_attention.py)."""
    from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes

    sinks = nn.Parameter(torch.zeros(config.num_attention_heads // config.tensor_model_parallel_size))
    set_tensor_model_parallel_attributes(sinks, is_parallel=True, dim=0, stride=1)
    return sinks
