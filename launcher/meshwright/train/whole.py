"""A linear layer of no tensor parallelism."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Whole"]


class Whole(nn.Module):
    """A linear layer that every rank of a tensor-parallel group holds whole, as ``TELinear`` of ``duplicated`` mode.

    Under sequence parallelism each rank sees tokens of its own: gradients are summed, and marked for that.
    """

    def __init__(
        self, input_size: int, output_size: int, *, config: Any, init_method: Any, bias: bool = False, **_: Any
    ) -> None:
        """Take Megatron's arguments of a linear layer."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(output_size, input_size, dtype=config.params_dtype))
        self.bias = nn.Parameter(torch.zeros(output_size, dtype=config.params_dtype)) if bias else None
        if config.perform_initialization:
            init_method(self.weight)
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """``[..., input_size] -> [..., output_size]``; no bias is left to add."""
        return nn.functional.linear(x, self.weight, self.bias), None
