"""Modules that hold the parameters of Transformer Engine's and do nothing: for building a model on the meta device."""

from __future__ import annotations

from typing import Any

__all__ = ["NoAttention", "Norm", "Replicated", "as_transformer_engine"]


def as_transformer_engine(layer: Any) -> None:
    """Give a local layer the parameters Transformer Engine's would have."""
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = NoAttention
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = Norm
    for name in ("q_layernorm", "k_layernorm", "kv_layernorm"):
        if getattr(getattr(attention, name, None), "__name__", "IdentityOp") != "IdentityOp":
            setattr(attention, name, Norm)
    for name in ("linear_q_down_proj", "linear_kv_down_proj"):
        if hasattr(attention, name):
            setattr(attention, name, Replicated)


class NoAttention:
    """Core attention has no parameters but its sinks; the local one refuses context parallelism and MLA."""

    def __new__(cls, config: Any, *_: object, **__: object) -> Any:
        """Take Megatron's arguments."""
        import torch

        made = torch.nn.Module()
        if config.softmax_type == "learnable":
            heads = config.num_attention_heads // config.tensor_model_parallel_size
            made.softmax_offset = torch.nn.Parameter(torch.empty(heads))
        return made


class Norm:
    """Megatron's wrapper of torch's norms refuses sequence parallelism."""

    def __new__(cls, config: Any, hidden_size: int, eps: float = 1e-5, **_: object) -> Any:
        """Take Megatron's arguments."""
        import torch

        norm = torch.nn.RMSNorm if config.normalization == "RMSNorm" else torch.nn.LayerNorm
        return norm(hidden_size, eps=eps)


class Replicated:
    """What Transformer Engine keeps whole on every rank: MLA's down-projections, those before and behind experts."""

    def __new__(cls, input_size: int, output_size: int, *_: object, bias: bool = False, **__: object) -> Any:
        """Take Megatron's arguments."""
        import torch

        return torch.nn.Linear(input_size, output_size, bias=bias)
