"""What is installed on this machine, by component, found without importing anything heavy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from meshwright.spec.software import COMPONENTS, HERE

__all__ = ["found", "gpus", "installed", "torch_build"]

PATIENCE_S = 15


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
