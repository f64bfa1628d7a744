"""What the nodes must have beside the backend itself: one row a component that an option needs on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.errors import Problem
from meshwright.rules._requirement import Default, Requirement
from meshwright.rules.deepspeed_needs import NEEDS as DEEPSPEED
from meshwright.rules.megatron_needs import NEEDS as MEGATRON
from meshwright.rules.resiliency_needs import NEEDS as RESILIENCY
from meshwright.spec import Spec
from meshwright.spec.software import COMPONENTS

__all__ = ["DEFAULTS", "REQUIREMENTS", "Default", "Requirement", "lacking", "needed"]

DEFAULTS = (
    Default(
        backend="megatron",
        option="transformer",
        component="transformer_engine",
        there="transformer_engine",
        absent="local",
        unknown="transformer_engine",
    ),
    Default(
        backend="megatron",
        option="gradient_accumulation_fusion",
        component="apex",
        there=True,
        absent=False,
        unknown=False,
    ),
    Default(backend="deepspeed", option="torch_adam", component="nvcc", there=False, absent=True, unknown=False),
)

REQUIREMENTS: tuple[Requirement, ...] = (*MEGATRON, *RESILIENCY, *DEEPSPEED)


_ROCM = {
    "transformer_engine": "build ROCm/TransformerEngine",
    "apex": "build ROCm/apex with --cpp_ext --cuda_ext",
    "emerging_optimizers": "pip install 'emerging-optimizers>=0.2'",
    "flash_attn": "build Dao-AILab/flash-attention on ROCm (its README, AMD ROCm Support)",
    "hipcc": "ROCm's development packages",
    "ninja": "pip install ninja",
}
"""How to get a component on AMD's GPUs, where it is made for them."""


def needed(spec: Spec, backend: str | None = None) -> tuple[Requirement, ...]:
    """What this run's nodes must have for ``backend`` (the one launched); nothing where they have no GPUs.

    On AMD's GPUs each row says how to get it there, and hipcc compiles what nvcc does on NVIDIA's.
    """
    platform, chosen = spec.cluster.accelerator.platform, backend or spec.backend.name
    if platform == "cpu":
        return ()
    rows = tuple(row for row in REQUIREMENTS if row.backend == chosen and row.asked(spec))
    return tuple(map(_on_rocm, rows)) if platform == "rocm" else rows


def _on_rocm(row: Requirement) -> Requirement:
    component = "hipcc" if row.component == "nvcc" else row.component
    return replace(row, component=component, install=_ROCM.get(component, "do without: it is not made for AMD's GPUs"))


def lacking(spec: Spec, backend: str) -> Iterator[Problem]:
    """What the options ask for and the software says is absent or too old; and components that nobody knows."""
    for component in spec.software.components.keys() - COMPONENTS.keys():
        known = f"unknown component; known are {', '.join(COMPONENTS)}"
        yield Problem(f"software.components.{component}", known, "software.unknown")
    for row in needed(spec, backend):
        if row.met_by(spec.software) is False:
            has = spec.software.components.get(row.component)
            lacks = f"has {has}" if has else "lacks"
            text = f"needs {row.name}, which software={spec.software.name} {lacks}; set {row.instead}, or {row.install}"
            yield Problem(row.option.partition("=")[0], text, "software.lacks")
