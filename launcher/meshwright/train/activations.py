"""Activations that Megatron-core has no flag for."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "XIELU"]

gelu_tanh = partial(nn.functional.gelu, approximate="tanh")

ACTIVATIONS: dict[str, Any] = {
    "relu": nn.functional.relu,
    "gelu_tanh": gelu_tanh,
    "geglu": nn.functional.gelu,  # gated: --swiglu says so
    "geglu_tanh": gelu_tanh,
}
"""By the name of ``model.activation``."""


class XIELU(nn.Module):
    """``a x² + x/2`` above zero, ``b (exp(x) - 1 - x) + x/2`` below, a and b learned (arXiv:2411.13010, section 3)."""

    BETA, EPS = 0.5, -1e-6

    def __init__(self) -> None:
        """Both start at 0.8, as transformers has them (activations.py)."""
        super().__init__()
        start = torch.log(torch.expm1(torch.tensor(0.8)))
        self.alpha_p = nn.Parameter(start.clone().unsqueeze(0))
        self.alpha_n = nn.Parameter(torch.log(torch.expm1(torch.tensor(0.8 - self.BETA))).unsqueeze(0))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape. A rank of a tensor-parallel group sees some channels: the scalars' gradients are summed."""
        above, below = (copy_to_tensor_model_parallel_region(a) for a in (self.alpha_p, self.alpha_n))
        above, below = nn.functional.softplus(above), self.BETA + nn.functional.softplus(below)
        low = (torch.expm1(torch.clamp(x, max=self.EPS)) - x) * below
        return torch.where(x > 0, above * x * x, low) + self.BETA * x
