"""Attention to an encoder that is not there: BART's decoder alone holds its weights, and computes nothing with them."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor, nn

__all__ = ["IdleAttention"]


class IdleAttention(nn.Module):
    """Projections of queries, keys, values and the output, and the norm beside them; cut as those of self-attention."""

    def __init__(self, config: Any, norm: nn.Module, biases: str) -> None:
        """``biases``: which projections have one, as ``model.attention_bias`` says."""
        super().__init__()
        hidden, wide = config.hidden_size, config.num_attention_heads * config.kv_channels
        into, out = (config.add_bias_linear and biases in kinds for kinds in (("all",), ("all", "output")))
        common = {"config": config, "skip_bias_add": False}
        self.linear_qkv = ColumnParallelLinear(
            hidden, 3 * wide, init_method=config.init_method, bias=into, gather_output=False, **common
        )
        self.linear_proj = RowParallelLinear(
            wide, hidden, init_method=config.output_layer_init_method, bias=out, input_is_parallel=True, **common
        )
        self.beside = [norm]  # a module of the layer's, not of this one

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The same; on the way back the weights' gradients are zero, for which Megatron's buckets wait."""
        weights = (*self.parameters(), *self.beside[0].parameters())
        output: Tensor = _Idle.apply(hidden_states, *weights)  # type: ignore[no-untyped-call]
        return output


class _Idle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        return hidden_states.view_as(hidden_states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (gradients[0], *(torch.zeros_like(weight) for weight in ctx.saved_tensors))
