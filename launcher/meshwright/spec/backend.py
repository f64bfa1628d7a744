"""What only one backend knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from meshwright.spec.frozen import dataclass
from meshwright.spec.techniques import (
    ActivationOffload,
    AutoTp,
    CudaGraphs,
    DeepCompile,
    DeepSpeedCheckpoint,
    ExpertOptions,
    FsdpOptions,
    Garbage,
    MuonOptions,
    OptimizerOffload,
    ProcessGroups,
    Quantization,
    Tiling,
    TpOverlap,
    ZenFlow,
)

__all__ = ["Backend", "CheckpointFormat", "DeepSpeedOptions", "MegatronOptions", "Offload"]


CheckpointFormat = Literal["torch_dist", "torch", "fsdp_dtensor", "torch_dcp"]


@dataclass(frozen=True, kw_only=True)
class MegatronOptions:
    """What only Megatron-core knows."""

    fsdp: Literal["megatron", "torch"] = "megatron"  # realises ZeRO 2 and 3
    model: Literal["auto", "gpt", "hybrid"] = "auto"  # the class that builds it; auto: gpt where it can
    transformer: Literal["transformer_engine", "local"] = "transformer_engine"
    attention: Literal["auto", "flash", "fused", "unfused"] = "auto"
    dsa_kernels: Literal["none", "tilelang", "cudnn"] = "none"  # whose kernels attend to what an indexer chose
    moe_dispatcher: Literal["alltoall", "allgather", "flex"] = "alltoall"
    moe_flex_backend: Literal["deepep", "hybridep", "ncclep"] = "deepep"  # whose kernels flex calls
    moe_flex_sms: int | None = None  # multiprocessors that flex communicates with; None: the backend's own number
    moe_grouped_gemm: bool = True
    moe_permute_fusion: bool = False
    moe_router_fusion: bool = False
    moe_shared_expert_overlap: bool = False  # shared experts beside the dispatch
    moe_rank_capacity: float | None = None  # tokens of a rank's experts, in balanced shares: static shapes
    moe_paged_stash: bool = False  # what routed experts keep for the backward, in pages
    op_fuser: bool = False  # Transformer Engine's operations, fused across an expert's MLP
    delay_wgrad: bool = False  # weight gradients wait for the all-to-all that parallelism.overlap_ep hides
    gather_with_step: bool = False  # parameters are gathered while the optimizer steps
    experimental: bool = False  # Megatron's experiments: kernels that pad routing maps and read DeepEP's indices
    per_token_loss: bool = False  # gradients are divided by a step's tokens at its end, not by ranks and micro-batches
    bucket: int | None = None  # elements reduced at once; None: 40 million, or a million for each replica
    decay_qk_norms: bool = False  # weight decay of the norms of queries and keys, too
    garbage: Garbage = field(default_factory=Garbage)
    cuda_graphs: CudaGraphs = field(default_factory=CudaGraphs)
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    quantization: Quantization = field(default_factory=Quantization)
    activation_offload: ActivationOffload = field(default_factory=ActivationOffload)
    optimizer_offload: OptimizerOffload = field(default_factory=OptimizerOffload)
    megatron_fsdp: FsdpOptions = field(default_factory=FsdpOptions)
    muon: MuonOptions = field(default_factory=MuonOptions)
    groups: ProcessGroups = field(default_factory=ProcessGroups)
    tp_overlap: TpOverlap = field(default_factory=TpOverlap)
    vocab_divisor: int = 128  # the vocabulary is padded to a multiple of vocab_divisor*tp
    checkpoint_format: CheckpointFormat | None = None  # None: what fits
    checkpoint_parallel_load: bool = False  # replicas read a part each and exchange them
    checkpoint_reshardable: bool = False  # a sharded optimizer is saved so that every layout can load it
    empty_cache: Literal[0, 1, 2] = 0  # the allocator gives back what is free, at a step's end (1), and twice more (2)
    gradient_accumulation_fusion: bool = False  # needs APEX
    cross_entropy_fusion: bool = False
    precision_aware_optimizer: bool = False
    optimizer_moments: Literal["fp32", "bf16", "fp8"] = "fp32"  # other than fp32 needs precision_aware_optimizer
    optimizer_master: Literal["fp32", "fp16"] = "fp32"  # master weights; fp16 needs precision_aware_optimizer
    optimizer_gradients: Literal["fp32", "bf16"] = "fp32"  # that the step reads; bf16 needs precision_aware_optimizer
    spec: bool = True  # use our layer spec where stock Megatron lacks a part of the model
    extra: tuple[str, ...] = ()  # flags passed through, checked by Megatron's own parser


@dataclass(frozen=True, kw_only=True)
class Offload:
    """Where DeepSpeed keeps a state."""

    device: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: str | None = None
    pin_memory: bool = True
    ratio: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DeepSpeedOptions:
    """What only DeepSpeed knows."""

    offload_optimizer: Offload = Offload()
    offload_param: Offload = Offload()
    hpz: int = 1  # ZeRO++ secondary partition size
    quantized_weights: bool = False  # ZeRO++ qwZ
    quantized_gradients: bool = False  # ZeRO++ qgZ
    autocast: Literal["none", "bf16", "fp16"] = "none"  # products cast their inputs, weights are fp32
    bf16_states: bool = False  # masters, their gradients and moments in bf16: nothing in fp32
    reduce_bucket: int = 500_000_000  # elements
    allgather_bucket: int = 500_000_000  # elements; ZeRO 1 and 2
    prefetch_bucket: int = 50_000_000  # elements; ZeRO 3
    persistence_threshold: int = 100_000  # elements; ZeRO 3
    max_live_parameters: int = 1_000_000_000  # ZeRO 3
    max_reuse_distance: int = 1_000_000_000  # ZeRO 3
    sub_group_size: int = 1_000_000_000  # ZeRO 3
    super_offload: bool = False  # the CPU steps what has come while the backward pass still runs
    super_offload_cores: float = 0.8  # part of the CPU's cores that do
    zenflow: ZenFlow = field(default_factory=ZenFlow)
    tiling: Tiling = field(default_factory=Tiling)
    deep_compile: DeepCompile = field(default_factory=DeepCompile)
    autotp: AutoTp = field(default_factory=AutoTp)
    checkpoint: DeepSpeedCheckpoint = field(default_factory=DeepSpeedCheckpoint)
    moe_dispatcher: Literal["alltoall", "deepep"] = "alltoall"  # how AutoEP's tokens reach their experts
    moe_dispatcher_sms: int = 12  # multiprocessors that DeepEP communicates with
    torch_adam: bool = False
    attention: Literal["auto", "sdpa", "flash_attention_2", "flash_attention_3", "eager"] = "auto"
    extra: Mapping[str, object] = field(default_factory=dict)  # merged into the JSON; unread keys are refused


@dataclass(frozen=True, kw_only=True)
class Backend:
    """``name`` is the backend that is launched; ``compile`` writes every one that can express the plan."""

    name: Literal["megatron", "deepspeed"] = "megatron"
    megatron: MegatronOptions = MegatronOptions()
    deepspeed: DeepSpeedOptions = DeepSpeedOptions()
