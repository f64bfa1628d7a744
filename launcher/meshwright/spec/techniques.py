"""What the fastest runs switch on beside a layout. Names: megatron-core 0.19.2; the last five: DeepSpeed 0.19.8."""

from __future__ import annotations

from typing import Literal

from meshwright.spec.frozen import dataclass

__all__ = [
    "ActivationOffload",
    "AutoTp",
    "CudaGraphs",
    "DeepCompile",
    "DeepSpeedCheckpoint",
    "ExpertOptions",
    "FsdpOptions",
    "Garbage",
    "ModulePrecision",
    "MuonOptions",
    "OptimizerOffload",
    "OverlappedProduct",
    "ProcessGroups",
    "Quantization",
    "Tiling",
    "TpOverlap",
    "ZenFlow",
]


@dataclass(frozen=True, kw_only=True)
class CudaGraphs:
    """Kernels captured once and replayed, so that the host starts a graph instead of each of them."""

    kind: Literal["none", "local", "transformer_engine", "full_iteration"] = "none"
    modules: tuple[str, ...] = ()  # attn mlp moe moe_router moe_preprocess mamba; empty: whole layers
    warmup: int = 3  # steps before they are captured


@dataclass(frozen=True, kw_only=True)
class ModulePrecision:
    """Modules of Megatron's whose products have a precision of their own."""

    match: str  # a glob over their names, as decoder.layers.0.self_attention.linear_qkv; the first that fits counts
    precision: Literal["bf16", "fp8_tensorwise", "fp8_blockwise", "mxfp8", "nvfp4"] = "bf16"


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Products in 8 and 4 bits in detail; which recipe is ``training.precision``."""

    param_gather: bool = False  # weights are kept and gathered in the precision of the products
    reuse_gradient_buffer: bool = False  # mxfp8: gathered into the gradients' buffer
    first_layers_bf16: int = 0  # decoder layers kept in bf16
    last_layers_bf16: int = 0
    output_projection: bool = False  # mxfp8: the head, too
    modules: tuple[ModulePrecision, ...] = ()  # in layers that are not kept in bf16
    amax_history: int = 1  # steps whose largest values make a scale, where it is delayed
    amax: Literal["most_recent", "max"] = "most_recent"  # which of them does


@dataclass(frozen=True, kw_only=True)
class ExpertOptions:
    """How routed experts are fed, in detail; which kernels dispatch is ``backend.megatron.moe_dispatcher``."""

    balanced: bool = False  # tokens go where loads are equal, whatever the router scores: for benchmarks
    padded: bool = False  # each expert's tokens fill the blocks that 8- and 4-bit products want
    padded_to_capacity: bool = False  # each expert takes as many tokens as model.moe.capacity_factor allows, no fewer
    interleave: int | None = None  # channels of gate and of up in turn, as fused kernels read them
    priority_stream: bool = False  # the all-to-all that parallelism.overlap_ep hides has a stream of high priority
    permute_in_dispatch: bool = False  # HybridEP sorts the tokens while it sends them
    preprocessing_sms: int = 108  # multiprocessors that count HybridEP's tokens
    wgrad_beside_dispatch: bool = False  # their weights' gradients run beside the dispatch of the backward
    early_release: bool = False  # under parallelism.overlap_ep attention's backward comes first: memory for time
    stash_gpu: float = 1.1  # pages on the GPU, in average loads
    stash_host: float = 0.0  # pages on the host for what is more


@dataclass(frozen=True, kw_only=True)
class ActivationOffload:
    """Activations that wait in the host's memory for their backward pass."""

    modules: tuple[str, ...] = ()  # whose inputs leave; see rules.megatron_offload.OFFLOADED
    fraction: float = 1.0  # of these
    min_elements: int = 1_048_576  # of a tensor of theirs, on one GPU; a smaller one stays
    inflight: int | None = None  # copies of one module under way; full-iteration graphs must say it
    layers: int = 0  # instead of modules: whole layers, without a pipeline
    delayed: bool = False  # copies are issued behind the next graph of a layer, when the host waits anyway


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
    symmetric_buffers: bool = True  # as windows that all ranks have at the same place, where torch and NCCL can
    pooled_buffers: bool = False  # double buffers as large as the largest layer's, for layers of several kinds
    persistent_fallback: bool = False  # what is no layer, and finds no place in these, keeps a buffer of its own
    transpose_cache: bool = False  # 8-bit weights keep their transposes between the two passes
    outer_optimizer: bool = False  # optimizer states are sharded over the replicas of optimizer_instances, too
    meta_device: bool = False  # weights are drawn where they are sharded, never whole on a GPU
    unit_size: int | None = None  # elements under reduction, half as many gathered ahead; None: 1e9, or two layers'


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """When the host collects Python's garbage: at the same steps everywhere, where it is asked to."""

    interval: int | None = None  # steps between two collections; 0: around validations alone; None: when Python wants
    evaluation: bool = True  # before and after each validation, too


@dataclass(frozen=True, kw_only=True)
class OverlappedProduct:
    """How one product of a layer and what tensor-parallel ranks exchange for it overlap. None: the engine's choice."""

    name: str  # qkv_fprop, qkv_dgrad, qkv_wgrad, the same of proj, fc1, fc2
    method: Literal["ring_exchange", "pipeline", "bulk", "external"] | None = None
    sms: int | None = None  # multiprocessors that communicate
    cluster: int | None = None  # thread blocks of a cluster of theirs
    sm_margin: bool | None = None  # the product leaves those free
    splits: int | None = None  # of a pipeline
    aggregate: bool | None = None  # ring exchange: two chunks at once
    atomic: bool | None = None  # 8 bits: one product waits for its chunks inside
    fp8_buffer: bool | None = None  # what is scattered is sent in 8 bits


@dataclass(frozen=True, kw_only=True)
class TpOverlap:
    """How ``parallelism.overlap_tp`` runs: Transformer Engine's user buffers, product by product."""

    preset: str | None = None  # a table of NVIDIA's; see data/user_buffers.json
    products: tuple[OverlappedProduct, ...] = ()  # instead of the preset's, or of the engine's own
    bootstrap: Literal["nccl", "mpi", "gloo"] = "nccl"  # who introduces the ranks to one another
    gather: bool = True  # what products take is gathered beside them
    scatter: bool = True  # what they give is scattered beside them
    scatter_dgrad: bool = False  # inputs' gradients beside the product that makes them, not beside weights' gradients
    bulk_dgrad: bool = True  # inputs are gathered again beside inputs' gradients
    bulk_wgrad: bool = True  # inputs' gradients are scattered beside weights' gradients


@dataclass(frozen=True, kw_only=True)
class MuonOptions:
    """How ``training.optimizer.name=muon`` makes an update of a matrix's momentum, and who steps everything else."""

    nesterov: bool = False  # the gradient enters the momentum once more before
    steps: int = 5  # of Newton and Schulz's iteration, which makes the update orthogonal
    coefficients: Literal["simple", "quintic", "polar_express", "aol"] = "quintic"  # of that iteration
    scale: Literal["spectral", "unit_rms_norm", "shape_scaling"] = "spectral"  # factor by the matrix's shape
    extra_scale: float = 1.0  # and one more
    products: Literal["medium", "high"] = "medium"  # precision of the iteration: bf16, or TF32
    split_qkv: bool = True  # queries, keys and values are matrices of their own
    tp_mode: Literal["blockwise", "duplicated", "distributed"] = "blockwise"  # of a matrix that tp cuts
    scalars: Literal["adam", "lion"] = "adam"  # who steps embeddings, head and norms


@dataclass(frozen=True, kw_only=True)
class ProcessGroups:
    """How Megatron makes the groups that communicate, beside who is in them."""

    high_priority: tuple[str, ...] = ()  # groups whose kernels run before others; see rules.megatron_groups.GROUPS
    nccl_config: str | None = None  # YAML on the nodes: min_ctas, max_ctas and cga_cluster_size by group
    sharp: Literal["none", "dp", "dp_replica"] = "none"  # the group whose sums InfiniBand switches make
    timeout_minutes: int = 10  # that a collective may wait for its last rank


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """A micro-batch's tokens in pieces, one after the other, computed again in the backward pass (ALST)."""

    loss: int = 1  # pieces whose logits exist at once
    mlp: int = 1  # pieces that dense MLPs take


@dataclass(frozen=True, kw_only=True)
class ZenFlow:
    """The GPU steps the gradients' largest columns at once, the CPU the others' sums now and then."""

    topk: float | None = None  # part of the columns that the GPU steps; None: off
    update_interval: int = 4  # steps between two of the CPU
    select_interval: int = 100  # steps after which the columns are chosen anew
    warmup: int = 0  # steps at first in which everything is stepped
    overlap: bool = True  # the CPU steps beside the GPU's next steps


@dataclass(frozen=True, kw_only=True)
class DeepCompile:
    """ZeRO's communication as passes over compiled graphs."""

    enabled: bool = False
    offload: Literal["none", "activations", "optimizer"] = "none"  # to pinned memory, as far as the GPU's is short


@dataclass(frozen=True, kw_only=True)
class AutoTp:
    """How automatic tensor parallelism cuts what parallelism.tp asks it to cut."""

    vocabulary: bool | None = None  # logits stay cut by the vocabulary; None: where head and embedding are tied
    overlap: bool = False  # inputs' gradients are reduced beside weights' gradients


@dataclass(frozen=True, kw_only=True)
class DeepSpeedCheckpoint:
    """Who writes checkpoints, and where; while training goes on where ``training.logging.async_save`` asks for it."""

    writer: Literal["torch", "python", "fast"] = "torch"  # fast: through pinned buffers and libaio
    node_local: bool = False  # each node keeps what its own ranks wrote
    load_universal: bool = False  # training.logging.load is read as one that any number of ranks wrote
