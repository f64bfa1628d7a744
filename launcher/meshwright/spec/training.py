"""What is trained how long: batch, precision, optimizer, schedule, data, logging. Batches are in sequences."""

from __future__ import annotations

from typing import Literal

from meshwright.spec.frozen import dataclass

__all__ = [
    "FP8_RECIPES",
    "Data",
    "Evaluation",
    "Logging",
    "Optimizer",
    "Precision",
    "RampStep",
    "Schedule",
    "Tokenizer",
    "Training",
]

Precision = Literal["fp32", "fp16", "bf16", "fp8_delayed", "fp8_tensorwise", "fp8_blockwise", "mxfp8", "nvfp4"]

FP8_RECIPES = {"fp8_delayed": "delayed", "fp8_tensorwise": "tensorwise", "fp8_blockwise": "blockwise", "mxfp8": "mxfp8"}
"""Precisions of 8 bits, and what Megatron calls their scaling."""

MATRIX_OPTIMIZERS = ("muon", "lion", "soap")
"""Optimizers that step matrices on Megatron, and leave embedding, head and norms to Adam: its ``emerging`` ones, whose
states ZeRO-1 deals out matrix by matrix (megatron-core 0.19.2, core/optimizer/emerging_optimizers.py)."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimizer. A ``None`` was published nowhere and is left to the backend's default, said so."""

    name: Literal["adamw", "adam", "sgd", "muon", "adaptive_muon", "lion", "soap"] = "adamw"
    lr: float = 3.0e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1.0e-8
    weight_decay: float = 0.1
    clip: float = 1.0  # global gradient norm; 0 turns clipping off
    momentum: float = 0.9  # SGD and Muon
    qk_clip: float | None = None  # largest attention logit that a step leaves (MuonClip); None: not clipped


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
class Evaluation:
    """The loss on the validation share of ``data.split``, while a run trains. As it stands: never."""

    interval: int | None = None  # optimizer steps; None: not on the way
    steps: int = 10  # batches of global_batch sequences each time
    at_end: bool = False

    @property
    def wanted(self) -> bool:
        """Whether there is any."""
        return self.interval is not None or self.at_end


@dataclass(frozen=True, kw_only=True)
class Logging:
    """What a run writes while it trains, and how often it saves."""

    interval: int = 1
    tensorboard: str | None = None  # directory
    wandb_project: str | None = None
    wandb_name: str | None = None
    save: str | None = None  # checkpoint directory; None: <run folder>/checkpoints
    checkpoints: bool = True  # false: none is written, on no signal and not at the end
    save_interval: int | None = None  # steps; None: only at the end and on a signal
    save_at_end: bool = True  # false: not after the last step
    keep_last: int | None = None  # checkpoints; older ones are deleted. None: all are kept
    keep_every: int | None = None  # of the older ones, those whose step is a multiple are kept
    async_save: bool = False  # written while training goes on
    load: str | None = None
    profile: int | None = None  # the step, counted from 1, that torch's profiler records

    @property
    def folder(self) -> str:
        """Where checkpoints are saved; relative to the run folder where it was not said."""
        return self.save or "checkpoints"


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
    evaluation: Evaluation = Evaluation()
    logging: Logging = Logging()
