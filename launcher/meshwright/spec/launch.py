"""How a compiled run is started: on this machine, or by SLURM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from meshwright.spec.frozen import dataclass

__all__ = ["Launch", "Resiliency", "Slurm", "Watchdog"]


@dataclass(frozen=True, kw_only=True)
class Watchdog:
    """A run without a step for ``factor`` times the usual, and at least ``seconds``, is ended and started again."""

    factor: float = 20.0  # 0: it may wait for ever
    seconds: float = 600.0
    slow: float = 1.5  # a rank whose forward passes take as many times its peers' is named; 0: none is


@dataclass(frozen=True, kw_only=True)
class Resiliency:
    """NVIDIA's resiliency extension: ``ft_launcher`` in torchrun's place starts ranks that fail or hang within the job.

    Megatron tells it where training is; each part may take so many seconds (megatron-core 0.19.2,
    training/ft_integration.py, whose example the values are).
    """

    launcher: Literal["torchrun", "ft_launcher"] = "torchrun"
    restarts: int = 3  # of all ranks within a job, before the job itself fails
    setup_seconds: float = 600.0  # to the first step; with the data's index and the checkpoint to load
    step_seconds: float = 180.0
    checkpointing_seconds: float = 420.0
    other_seconds: float = 300.0  # between the others
    learn_timeouts: bool = False  # from what the run shows, kept beside its checkpoints


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Options of sbatch by the names users know. ``None`` is left out of the script."""

    tasks: Literal["node", "rank"] = "node"  # one torchrun a node, or one task a rank
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None  # "D-HH:MM:SS"; always quoted
    exclusive: bool = True
    constraint: str | None = None
    reservation: str | None = None
    gpus: Literal["gpus-per-node", "gres", "none"] = "gpus-per-node"
    gpu_type: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None  # "0" asks for all of a node
    array: str | None = None  # "0-9%1": time slices of one run, one after the other, without requeue
    throttle: int | None = None  # jobs of a sweep that may run at once
    dependency: str | None = None
    requeue: bool = True
    max_restarts: int = 10  # after failures; restarts at the time limit are not counted
    signal_seconds: int = 300  # USR1 this long before the limit
    mail_type: str | None = None
    mail_user: str | None = None
    comment: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    switches: str | None = None  # "8" or "8@00:10:00"
    segment: int | None = None  # block topology
    job_name: str | None = None
    output: str | None = None
    container: Literal["none", "pyxis", "apptainer"] = "none"
    image: str | None = None
    mounts: tuple[str, ...] = ()
    workdir: str | None = None
    modules: tuple[str, ...] = ()
    before: tuple[str, ...] = ()  # shell commands run before srun, as written
    health_check: bool = True
    checkpoint_disk_gib: float | None = None  # free space asked of the checkpoint directory; None: from the plan
    extra: tuple[str, ...] = ()  # further "--option=value" for sbatch


@dataclass(frozen=True, kw_only=True)
class Launch:
    """``kind`` local: torchrun here. slurm: sbatch."""

    kind: Literal["local", "slurm"] = "local"
    entry: str = "meshwright"  # our node-side program, or the path of a pretrain_gpt.py
    python: str = "python3"
    port: int | None = None  # None: from the job's id, 29500 without SLURM
    dry_run: bool = False
    force: bool = False  # launch what is unlikely to fit, and where no checkpoint has room
    test_only: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    watchdog: Watchdog = Watchdog()
    resiliency: Resiliency = Resiliency()
    slurm: Slurm = Slurm()
