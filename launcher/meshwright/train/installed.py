"""What is installed on this machine, by component, found without importing anything heavy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

__all__ = ["COMPONENTS", "HERE", "Component", "found", "gpus", "installed", "torch_build"]

HERE = "here"  # stands for a version where there is one that does not say which
PATIENCE_S = 15


@dataclass(frozen=True)
class Component:
    """How a component is recognised: by a module, else by a program, else by a package or by what its image says."""

    name: str  # as people call it
    module: str = ""
    program: str = ""
    distributions: tuple[str, ...] = ()
    variable: str = ""  # of NVIDIA's images, which build some of these from source


COMPONENTS: Mapping[str, Component] = {
    "torch": Component("PyTorch", distributions=("torch",)),
    "cuda": Component("CUDA", variable="CUDA_VERSION"),
    "driver": Component("NVIDIA's driver"),
    "nccl": Component("NCCL", distributions=("nvidia-nccl-cu13", "nvidia-nccl-cu12"), variable="NCCL_VERSION"),
    "cudnn": Component("cuDNN", distributions=("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"), variable="CUDNN_VERSION"),
    "transformer_engine": Component("Transformer Engine", "transformer_engine", "", ("transformer-engine",)),
    "apex": Component("APEX", "fused_weight_gradient_mlp_cuda", "", ("apex",)),
    "flash_attn": Component("flash-attn", "flash_attn", "", ("flash-attn",)),
    "flash_attn_3": Component("flash-attn 3", "flash_attn_interface", "", ("flash-attn-3",)),
    "deep_ep": Component("DeepEP", "deep_ep", "", ("deep-ep",)),
    "emerging_optimizers": Component("Emerging-Optimizers", "emerging_optimizers", "", ("emerging-optimizers",)),
    "nvcc": Component("nvcc", program="nvcc"),
    "ninja": Component("ninja", program="ninja", distributions=("ninja",)),
    "megatron_core": Component("megatron-core", distributions=("megatron-core",)),
    "deepspeed": Component("DeepSpeed", distributions=("deepspeed",)),
    "transformers": Component("transformers", distributions=("transformers",)),
}


def installed() -> dict[str, str | None]:
    """The version of every component here; None where it is absent."""
    return {name: found(name) for name in COMPONENTS}


def found(name: str) -> str | None:
    """The version of one component here, ``HERE`` where it does not say, None where it is absent."""
    component = COMPONENTS[name]
    special = {"cuda": _cuda, "driver": _driver, "nvcc": _nvcc}.get(name)
    if special is not None:
        return special()
    if component.module and find_spec(component.module) is None:
        return None
    if component.program and shutil.which(component.program) is None:
        return None
    said = next(filter(None, map(_version, component.distributions)), None) or os.environ.get(component.variable)
    return said or (HERE if component.module or component.program else None)


def torch_build() -> tuple[str, str] | None:
    """("CUDA" or "ROCm", its version) that PyTorch was built for, as it says in a file; importing it takes seconds."""
    try:
        path = Path(str(distribution("torch").locate_file("torch/version.py")))
    except PackageNotFoundError:
        return None
    text = path.read_text() if path.is_file() else ""
    for name, shown in (("cuda", "CUDA"), ("hip", "ROCm")):
        number = re.search(rf"^{name}\b.*= *'([^']+)'", text, re.MULTILINE)
        if number:
            return shown, number[1]
    return None


def gpus() -> list[dict[str, str]]:
    """``name``, ``memory`` (MiB) and ``driver`` of each GPU that NVIDIA's driver shows."""
    lines = _said("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    cells = ([cell.strip() for cell in line.split(",")] for line in lines)
    return [dict(zip(("name", "memory", "driver"), row, strict=True)) for row in cells if len(row) == 3]


def _cuda() -> str | None:
    build = torch_build()
    return build[1] if build and build[0] == "CUDA" else os.environ.get(COMPONENTS["cuda"].variable)


def _driver() -> str | None:
    return next((gpu["driver"] for gpu in gpus()), None)


def _nvcc() -> str | None:
    if shutil.which("nvcc") is None:
        return None
    release = re.search(r"release ([\d.]+)", "\n".join(_said("nvcc", "--version")))
    return release[1] if release else HERE


def _said(*words: str) -> list[str]:
    """The lines that a program prints; none where it is absent, fails or hangs."""
    if shutil.which(words[0]) is None:
        return []
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except (subprocess.TimeoutExpired, OSError):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
