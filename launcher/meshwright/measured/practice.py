"""What a framework may do beside what the columns of a measured row say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from meshwright.cost.framework import SPREAD
from meshwright.cost.framework_megatron import HOOKED
from meshwright.spec.frozen import dataclass

__all__ = ["UNFUSED", "Practice", "Stage"]

Stage = Literal["first", "last", "fullest"]

UNFUSED = {"fused_gradients": False, "gradient_launches": HOOKED, "dummy_gradients": False}  # without APEX


@dataclass(frozen=True, kw_only=True)
class Practice:
    """What a framework does beside what a row's columns say."""

    cluster: Mapping[str, str] = field(default_factory=dict)  # other than gpu_names says, by the column ``gpu``
    fsdp: str = "megatron"
    whole_layers: tuple[str, ...] = ()  # GPUs that torch before 2.1 was measured on, whose checkpoints ran all again
    deepspeed: bool = False
    transformer_engine: bool = True
    dense_engine: bool = True  # models without experts are made of its layers, too
    grad_reduce: str = "fp32"
    sums_as_fp16: bool = False  # gradients of fp16 are summed in as many bits, whatever others are
    changes: Mapping[str, Any] = field(default_factory=dict)  # to the Framework of its Spec
    dense: Mapping[str, Any] = field(default_factory=dict)  # beside these, of models without experts
    kernels: Mapping[str, bool] = field(default_factory=dict)
    eager: Mapping[str, bool] = field(default_factory=dict)  # of these, where torch.compile joins nothing
    turned_apart: tuple[str, ...] = ()  # beginnings of models whose latent attention is not turned by one kernel
    fused_loss: bool = False
    remainders_until: str = ""  # the last release that kept of a master copy the 16 bits a bf16 weight lacks
    sixteen_bit_states: tuple[str, ...] = ()  # models, with the GPU, whose optimizer keeps two moments alone, in bf16
    low_weights: bool = False  # weights are kept and gathered in 8 bits where products are
    overlap_data: bool = True
    overlap_tensor: bool = False
    overlap_pipeline: bool = True
    dropout: float = 0.0
    cp_comm: str = "p2p"
    recompute: str | None = None  # where the column is known to be wrong
    sequence_parallel: bool = False  # where the column is empty
    vpp: int = 1  # where the column is empty
    zero: int = 0  # where the column is empty
    even_ends: bool = False  # embedding and loss each take the place of a layer
    short_ends: int | None = None  # layers that the first stage lacks where they do not divide; the last lacks the rest
    full_stages: bool = False  # a stage ends with the layer that is over its share, so that the first has one more
    small_states: bool = False  # its recipes keep optimizer states in fewer bits
    assumed: Mapping[str, str] = field(default_factory=dict)  # by column: what an empty one means
    released: str = ""  # the table of what the recipes of each release switched on, which empty columns mean
    memory_spread: float | None = SPREAD  # 80 % of peaks within its exp; None: as Megatron's layers
    cached_bytes: float = 0.0  # of a logit, what the allocator keeps beside what is allocated, where peaks are reserved
    cached_step: float = 0.0  # the same, of each parameter whose states a rank has, in blocks that only a step asks for
    cached_words: float = 0.0  # the same, of an element of a rank's embedding, beside what is under way at the peak
    context_gib: float = 0.0  # the source measured the whole process, CUDA context and NCCL included
    measured_stage: Stage = "fullest"  # whose memory the source published
