"""Norms that Megatron-core and Transformer Engine lack."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn

__all__ = ["BareNorm", "FullNorm", "as_the_others", "default_norm"]


class BareNorm(nn.Module):
    """A norm with fewer weights than usual: ``kind`` is what ``model.norm`` calls it."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, kind: str = "", **_: Any) -> None:
        """Take Megatron's arguments of a norm."""
        super().__init__()
        self.eps, self.size, self.rms = eps, (hidden_size,), kind.startswith("rmsnorm")
        self.weight = nn.Parameter(torch.ones(hidden_size)) if kind == "layernorm_without_bias" else None
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        if self.rms:
            return nn.functional.rms_norm(x, self.size, None, self.eps)
        return nn.functional.layer_norm(x, self.size, self.weight, None, self.eps)


class FullNorm(nn.Module):
    """RMSNorm of all heads' channels at once, ``[sequence, batch, heads/tp, channels]`` (OLMo 2, section 3.3).

    The mean square is summed over the tensor-parallel group; each rank holds the weights of its heads.
    """

    def __init__(self, hidden_size: int, config: Any, eps: float = 1e-5, heads: str = "", **_: Any) -> None:
        """``hidden_size``: channels of a head; ``heads``: the field of the configuration that counts them."""
        super().__init__()
        from megatron.core import parallel_state

        ranks = parallel_state.get_tensor_model_parallel_world_size()
        self.eps, self.channels = eps, getattr(config, heads) * hidden_size
        self.weight = nn.Parameter(torch.ones(self.channels // ranks))
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        flat = x.flatten(-2).float()
        square = flat.square().sum(-1, keepdim=True)
        # every rank's output depends on the sum: its gradient is summed on the way back, too
        square = copy_to_tensor_model_parallel_region(reduce_from_tensor_model_parallel_region(square))
        scaled = flat * torch.rsqrt(square / self.channels + self.eps)
        return (self.weight * scaled.to(x.dtype)).view_as(x)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """For Megatron's checkpoints: cut along the heads."""
        state = self.state_dict(prefix="", keep_vars=True)
        return make_sharded_tensors_for_checkpoint(state, prefix, {"weight": 0}, sharded_offsets)


def default_norm(config: Any) -> Any:
    """What builds the other norms of a model."""
    from megatron.core.models.backends import LocalSpecProvider

    rms = config.normalization == "RMSNorm"
    if config.transformer_impl != "transformer_engine":
        return LocalSpecProvider().layer_norm(rms_norm=rms, for_qk=False)
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm


def as_the_others(config: Any, **kwargs: Any) -> Any:
    """A norm as the model's others are."""
    return default_norm(config)(config=config, **kwargs)
