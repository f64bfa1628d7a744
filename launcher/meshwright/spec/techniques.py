"""What the fastest runs of Megatron-core switch on beside a layout. Names of flags: megatron-core 0.19.2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ActivationOffload", "CudaGraphs", "FsdpOptions", "OptimizerOffload", "Quantization"]


@dataclass(frozen=True, kw_only=True)
class CudaGraphs:
    """Kernels captured once and replayed, so that the host starts a graph instead of each of them."""

    kind: Literal["none", "local", "transformer_engine", "full_iteration"] = "none"
    modules: tuple[str, ...] = ()  # attn mlp moe moe_router moe_preprocess; empty: whole layers


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Products in 8 and 4 bits in detail; which recipe is ``training.precision``."""

    param_gather: bool = False  # weights are kept and gathered in the precision of the products
    reuse_gradient_buffer: bool = False  # mxfp8: gathered into the gradients' buffer
    first_layers_bf16: int = 0  # decoder layers kept in bf16
    last_layers_bf16: int = 0
    output_projection: bool = False  # mxfp8: the head, too


@dataclass(frozen=True, kw_only=True)
class ActivationOffload:
    """Activations that wait in the host's memory for their backward pass."""

    modules: tuple[str, ...] = ()  # whose inputs leave; see rules.megatron_offload.OFFLOADED
    fraction: float = 1.0  # of these
    inflight: int | None = None  # copies of one module under way; full-iteration graphs must say it
    layers: int = 0  # instead of modules: whole layers, without a pipeline


@dataclass(frozen=True, kw_only=True)
class OptimizerOffload:
    """Part of the optimizer's states that lives, and is stepped, on the host."""

    fraction: float = 0.0
    overlap: bool = False  # copies run beside the step


@dataclass(frozen=True, kw_only=True)
class FsdpOptions:
    """How Megatron-FSDP, which realises ZeRO 2 and 3, keeps what it sends."""

    double_buffer: bool = False  # gathered parameters and gradients of two layers, in buffers that stay
    nccl_buffers: bool = False  # these registered with NCCL, whose kernels then take fewer multiprocessors
    outer_optimizer: bool = False  # optimizer states are sharded over the replicas of optimizer_instances, too
