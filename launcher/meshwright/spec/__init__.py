"""What a user describes: model x cluster x parallelism x training, as frozen, typed, closed dataclasses.

Every number keeps the name and meaning it has in the papers. Sizes of a model are counts, batches are in
sequences, memory in GiB (2**30 bytes), rates in bytes or FLOP per second scaled as the field name says.
``None`` means *not stated*: either it is derived (``dp``, ``gpus``) or Megatron's default applies.
"""

from __future__ import annotations

from dataclasses import field

from meshwright.spec.backend import Backend, DeepSpeedOptions, MegatronOptions, Offload
from meshwright.spec.cluster import Accelerator, Cluster, Efficiency, EnvVariable, Link
from meshwright.spec.frozen import dataclass
from meshwright.spec.launch import Launch
from meshwright.spec.model import Model
from meshwright.spec.parallelism import Parallelism, PipelineSplit
from meshwright.spec.software import Software
from meshwright.spec.techniques import ActivationOffload, CudaGraphs, OptimizerOffload, Quantization
from meshwright.spec.training import (
    Data,
    Evaluation,
    Logging,
    Optimizer,
    Precision,
    RampStep,
    Schedule,
    Tokenizer,
    Training,
)

__all__ = [
    "Accelerator",
    "ActivationOffload",
    "After",
    "Backend",
    "Cluster",
    "CudaGraphs",
    "Data",
    "DeepSpeedOptions",
    "Efficiency",
    "EnvVariable",
    "Evaluation",
    "Launch",
    "Link",
    "Logging",
    "MegatronOptions",
    "Model",
    "Offload",
    "Optimizer",
    "OptimizerOffload",
    "Parallelism",
    "PipelineSplit",
    "Precision",
    "Quantization",
    "RampStep",
    "Schedule",
    "Software",
    "Spec",
    "Tokenizer",
    "Training",
]


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
    software: Software = field(default_factory=Software)
    stage: str | None = None
    after: After | None = None
    variant: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the run, and of its variant and stage where it has them."""
        return tuple(name for name in (self.name, self.variant, self.stage) if name)
