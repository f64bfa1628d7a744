"""Identical nodes of identical GPUs, the links between them, and how much of both a run reaches.

Memory in GiB (2**30 bytes), rates in 1e9 bytes or 1e12 FLOP a second as the field names say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from meshwright.spec.frozen import dataclass

__all__ = ["Accelerator", "Cluster", "Efficiency", "EnvVariable", "Link"]


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One GPU as the framework sees it (a GCD of an MI250X counts as one)."""

    name: str  # as its maker calls it
    memory_gib: float  # 2**30 bytes
    memory_bandwidth_gb_s: float  # 1e9 bytes per second
    bf16_tflops: float  # dense matrix peak, 1e12 FLOP/s
    fp8_tflops: float | None  # None: the hardware has no fp8 matrix units
    fp32_tflops: float  # dense matrix peak in fp32 (TF32 where the hardware has it)
    capability: str  # CUDA compute capability; "0.0" where there is none
    platform: Literal["cuda", "rocm", "cpu"] = "cuda"  # what its kernels are built for
    fp4_tflops: float | None = None  # None: no fp4 matrix units
    full_fp32_tflops: float | None = None  # where TF32 is not allowed, as in PyTorch; None: as fp32_tflops

    @property
    def full_fp32(self) -> float:
        """FLOP/s of products that PyTorch multiplies in fp32: ``torch.backends.cuda.matmul.allow_tf32`` is off."""
        return 1e12 * (self.full_fp32_tflops or self.fp32_tflops)


@dataclass(frozen=True, kw_only=True)
class Link:
    """A class of links as one GPU sees it."""

    bandwidth_gb_s: float  # 1e9 bytes per second, per GPU and direction
    latency_us: float  # of a message, in microseconds


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
    host_memory_gib: float = 0.0  # of one node; 0: unknown
    host_memory_gb_s: float | None = None  # what one node's CPUs read and write; None: unknown, as the next four
    host_link_gb_s: float | None = None  # between a GPU and the host (PCIe, C2C), each direction
    nvme_gib: float | None = None  # local disks of one node, as the next two
    nvme_read_gb_s: float | None = None
    nvme_write_gb_s: float | None = None
    price_per_gpu_hour: float | None = None  # in any currency; None: not stated
    node_mtbf_hours: float | None = None  # mean time between failures of one node; None: not stated
    storage_gb_s: float | None = None  # at which a run writes its checkpoint, 1e9 bytes a second; None: not stated
    environment: Mapping[str, EnvVariable] = field(default_factory=dict)
    efficiency: Efficiency = Efficiency()
