"""What a user describes: model x cluster x parallelism x training, as frozen, typed, closed dataclasses.

Every number keeps the name and meaning it has in the papers. Sizes of a model are counts, batches are in
sequences, memory in GiB (2**30 bytes), rates in bytes or FLOP per second scaled as the field name says.
``None`` means *not stated*: either it is derived (``dp``, ``gpus``) or Megatron's default applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from meshwright.spec.launch import Launch
from meshwright.spec.model import Model

__all__ = [
    "Accelerator",
    "After",
    "Backend",
    "Cluster",
    "Data",
    "DeepSpeedOptions",
    "Efficiency",
    "EnvVariable",
    "Launch",
    "Link",
    "Logging",
    "MegatronOptions",
    "Model",
    "Offload",
    "Optimizer",
    "Parallelism",
    "PipelineSplit",
    "Precision",
    "RampStep",
    "Schedule",
    "Spec",
    "Tokenizer",
    "Training",
]

Precision = Literal["fp32", "fp16", "bf16", "fp8_delayed", "fp8_tensorwise", "fp8_blockwise", "mxfp8"]


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One GPU as the framework sees it (a GCD of an MI250X counts as one)."""

    name: str
    memory_gib: float
    memory_bandwidth_gb_s: float  # 1e9 bytes per second
    bf16_tflops: float  # dense matrix peak, 1e12 FLOP/s
    fp8_tflops: float | None  # None: the hardware has no fp8 matrix units
    fp32_tflops: float  # dense matrix peak in fp32 (TF32 where the hardware has it)
    capability: str  # CUDA compute capability; "0.0" where there is none


@dataclass(frozen=True, kw_only=True)
class Link:
    """A class of links as one GPU sees it."""

    bandwidth_gb_s: float  # 1e9 bytes per second, per GPU and direction
    latency_us: float


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Constants of the time model, fitted on measured step times; see docs/cost.md for each one and its fit."""

    matmul: float = 0.85  # part of the matrix peak that large matrix products reach
    attention: float = 0.5  # part of the matrix peak that fused attention reaches
    memory: float = 0.8  # part of the memory bandwidth that kernels reach
    intra_link: float = 0.7  # part of the bandwidth within a node that collectives reach
    inter_link: float = 0.6  # part of the bandwidth between nodes that collectives reach
    launch_us: float = 20.0  # host time of one operation of a layer
    kernel_us: float = 4.0  # device time in which a kernel starts and drains
    overlap: float = 0.6  # part of a collective that is hidden where the framework overlaps it
    step_ms: float = 5.0  # fixed cost of an optimizer step: synchronisation, logging, data
    spread: float = 0.15  # 80 % of measured step times lie within exp(-spread) .. exp(spread) times the prediction
    source: str = "ours: unfitted defaults"


@dataclass(frozen=True, kw_only=True)
class EnvVariable:
    """An environment variable a launch exports, with the reason for it."""

    value: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Identical nodes of identical GPUs. Any one of ``nodes`` and ``gpus`` may be left out."""

    name: str
    gpus_per_node: int
    accelerator: Accelerator
    intra: Link  # between GPUs of one node (NVLink, xGMI)
    inter: Link  # between nodes
    nodes: int | None = None
    gpus: int | None = None
    nvlink_domain: int | None = None  # GPUs joined by NVLink; None: one node
    pod: int | None = None  # GPUs joined at the full bandwidth of ``inter``; None: all
    oversubscription: float = 1.0  # of the fabric between pods: 7.0 means 1:7
    cpus_per_node: int = 1
    host_memory_gib: float = 0.0
    environment: Mapping[str, EnvVariable] = field(default_factory=dict)
    efficiency: Efficiency = Efficiency()


@dataclass(frozen=True, kw_only=True)
class PipelineSplit:
    """How layers fall on pipeline stages. All unset: evenly."""

    first: int | None = None  # decoder layers of the first stage
    last: int | None = None  # decoder layers of the last stage
    embedding: bool = False  # the embedding takes the slot of one layer
    loss: bool = False  # the head and loss take the slot of one layer
    layout: str | None = None  # Megatron's layout string, for example "Et*3|(tt|)*29m|L"


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """The degrees. ``world = tp*cp*pp*dp``; the experts' own grid is ``world = etp*ep*edp*pp``."""

    tp: int = 1
    sp: bool = False
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    dp: int | None = None
    zero: int = 0  # ZeRO stage 0-3
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_method: Literal["uniform", "block"] | None = None  # full only
    recompute_layers: int | None = None  # full only
    recompute_modules: tuple[str, ...] | None = None  # selective only; None: ("core_attn",)
    pipeline_split: PipelineSplit = PipelineSplit()
    order: Literal["tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"] = "tp-cp-ep-dp-pp"  # fastest axis first
    cp_comm: Literal["p2p", "all_gather", "a2a"] = "p2p"
    optimizer_instances: int = 1  # replicas of the sharded optimizer (hybrid sharding)
    microbatch_group: int | None = None  # interleaving: contiguous micro-batches per chunk; None: pp
    overlap_grad_reduce: bool = True
    overlap_param_gather: bool = True
    overlap_p2p: bool = True  # interleaved schedule only
    overlap_tp: bool = False  # tensor-parallel GEMM and collective overlap (Transformer Engine user buffers)
    overlap_ep: bool = False  # expert all-to-all hidden behind another micro-batch


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimizer. A ``None`` was published nowhere and is left to the backend's default, said so."""

    name: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    lr: float = 3.0e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1.0e-8
    weight_decay: float = 0.1
    clip: float = 1.0  # global gradient norm; 0 turns clipping off
    momentum: float = 0.9  # SGD only


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate over the run, in optimizer steps.

    Under a ramp each phase ends in its step; within a phase a step counts by its batch, as Megatron counts samples.
    """

    style: Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"] = "cosine"
    warmup_steps: int = 0
    decay_steps: int | None = None  # None: all steps of the run
    min_lr: float = 0.0
    wsd_decay_steps: int | None = None  # length of WSD's last phase
    wsd_decay_style: Literal["linear", "cosine", "exponential", "minus_sqrt"] = "linear"


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """What turns text into token ids on the nodes."""

    kind: Literal["null", "bytes", "huggingface", "sentencepiece", "tiktoken"] = "null"
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """Indexed datasets (``prefix`` of ``prefix.bin`` and ``prefix.idx``). Empty: mock data."""

    paths: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()  # one per path; empty: by size
    split: str = "99,1,0"  # train, validation, test
    epochs: float = 1.0  # times a stage may read its training share; checked before a launch
    cache: str | None = None
    workers: int = 2
    tokenizer: Tokenizer = Tokenizer()


@dataclass(frozen=True, kw_only=True)
class Logging:
    """What a run writes while it trains, and how often it saves."""

    interval: int = 1
    tensorboard: str | None = None  # directory
    wandb_project: str | None = None
    wandb_name: str | None = None
    save: str | None = None  # checkpoint directory; None: <run folder>/checkpoints
    save_interval: int | None = None  # steps; None: only at the end and on a signal
    load: str | None = None


@dataclass(frozen=True, kw_only=True)
class RampStep:
    """From ``from_tokens`` trained tokens on, the global batch is ``global_batch`` sequences."""

    from_tokens: int
    global_batch: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """Batch, precision, optimizer, schedule, data. Batches are in sequences.

    Any one of ``global_batch`` and ``microbatches`` may be left out: ``global_batch = micro_batch*dp*microbatches``.
    The length of the run is ``steps`` or ``tokens``; where both are set, they say the same.
    """

    sequence: int
    micro_batch: int = 1
    global_batch: int | None = None
    microbatches: int | None = None
    ramp: tuple[RampStep, ...] = ()  # pure batch ramp; its last step equals global_batch
    steps: int | None = None
    tokens: int | None = None
    precision: Precision = "bf16"
    grad_reduce: Literal["fp32", "bf16"] = "fp32"
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    seed: int = 1234
    data: Data = Data()
    logging: Logging = Logging()


@dataclass(frozen=True, kw_only=True)
class MegatronOptions:
    """What only Megatron-core knows."""

    fsdp: Literal["megatron", "torch"] = "megatron"  # realises ZeRO 2 and 3
    transformer: Literal["transformer_engine", "local"] = "transformer_engine"
    attention: Literal["auto", "flash", "fused", "unfused"] = "auto"
    moe_dispatcher: Literal["alltoall", "allgather", "flex"] = "alltoall"
    moe_grouped_gemm: bool = True
    moe_permute_fusion: bool = False
    vocab_divisor: int = 128  # the vocabulary is padded to a multiple of vocab_divisor*tp
    checkpoint_format: Literal["torch_dist", "torch", "fsdp_dtensor", "torch_dcp"] | None = None  # None: what fits
    gradient_accumulation_fusion: bool = True
    cross_entropy_fusion: bool = False
    precision_aware_optimizer: bool = False
    optimizer_moments: Literal["fp32", "bf16", "fp8"] = "fp32"  # other than fp32 needs precision_aware_optimizer
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
    reduce_bucket: int = 500_000_000  # elements
    allgather_bucket: int = 500_000_000  # elements; ZeRO 1 and 2
    prefetch_bucket: int = 50_000_000  # elements; ZeRO 3
    persistence_threshold: int = 100_000  # elements; ZeRO 3
    max_live_parameters: int = 1_000_000_000  # ZeRO 3
    max_reuse_distance: int = 1_000_000_000  # ZeRO 3
    sub_group_size: int = 1_000_000_000  # ZeRO 3
    torch_adam: bool = False
    attention: Literal["auto", "sdpa", "flash_attention_2", "flash_attention_3", "eager"] = "auto"
    extra: Mapping[str, object] = field(default_factory=dict)  # merged into the JSON; unread keys are refused


@dataclass(frozen=True, kw_only=True)
class Backend:
    """``name`` is the backend that is launched; ``compile`` writes every one that can express the plan."""

    name: Literal["megatron", "deepspeed"] = "megatron"
    megatron: MegatronOptions = MegatronOptions()
    deepspeed: DeepSpeedOptions = DeepSpeedOptions()


@dataclass(frozen=True, kw_only=True)
class After:
    """What a stage takes over from the one before it; no key of a configuration, ``transition`` derives it."""

    checkpoints: str  # their folder, seen from this stage's run folder
    step: int  # of the learning-rate schedule, with which this stage begins
    sample: int  # of the same data, with which this stage begins
    universal: bool  # DeepSpeed: the layout changes, so that the checkpoint is converted first


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One stage of a run, whole."""

    name: str  # recipe or model name
    model: Model
    cluster: Cluster
    parallelism: Parallelism
    training: Training
    backend: Backend
    launch: Launch
    stage: str | None = None
    after: After | None = None
