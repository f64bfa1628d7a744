"""What is installed and visible here, what that allows, and what to install for the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["Finding", "findings"]

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """``found`` is a version or a count, None where it is missing; ``allows`` what it is needed for."""

    name: str
    found: str | None
    allows: str
    install: str = ""


def findings(folder: Path) -> list[Finding]:
    """Everything that matters to a run, ``folder`` being where run folders go. Nothing heavy is imported."""
    return [_python(), *_packages(), *_hardware(), *_programs(), _disk(folder)]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", found if sys.version_info >= (3, 12) else None, "everything", "Python 3.12 or newer")


PACKAGES = (
    ("PyTorch", ("torch",), "verify, rehearse, training", "pip install 'meshwright[megatron]'"),
    (
        "megatron-core",
        ("megatron-core",),
        "backend=megatron: verdicts, rehearse, training",
        "pip install 'meshwright[megatron]'",
    ),
    (
        "DeepSpeed",
        ("deepspeed",),
        "backend=deepspeed: verdicts, rehearse, training",
        "pip install 'meshwright[deepspeed]'",
    ),
    ("transformers", ("transformers",), "DeepSpeed's models, Hugging Face tokenizers", "pip install 'meshwright[hf]'"),
    (
        "Transformer Engine",
        ("transformer-engine", "transformer_engine"),
        "fp8 and Megatron's fast layers on GPUs",
        "pip install --no-build-isolation 'transformer-engine[pytorch]', or backend.megatron.transformer=local",
    ),
    (
        "NCCL",
        ("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
        "collectives between NVIDIA GPUs",
        "comes with PyTorch for CUDA",
    ),
)


def _packages() -> Iterator[Finding]:
    for name, distributions, allows, install in PACKAGES:
        yield Finding(name, next(filter(None, map(_version, distributions)), None), allows, install)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _hardware() -> Iterator[Finding]:
    lines = _said("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    found = f"{len(lines)} x {lines[0]}" if lines else None
    yield Finding("GPUs", found, "training at speed; without them everything runs on the CPU", "NVIDIA's driver")
    yield Finding("CPU cores", str(len(os.sched_getaffinity(0))), "rehearse: one process a core is fast")


def _programs() -> Iterator[Finding]:
    slurm = _said("sbatch", "--version")
    yield Finding("SLURM", slurm[0] if slurm else None, "launch=slurm", "log in to a node of the cluster")
    allows = "launch.slurm.container=pyxis"
    pyxis = "plugin of srun" if any("--container-image" in line for line in _said("srun", "--help")) else None
    yield Finding("pyxis", pyxis, allows, "the site's administrator adds it to SLURM")
    apptainer = _said("apptainer", "--version")
    yield Finding("apptainer", apptainer[0] if apptainer else None, "launch.slurm.container=apptainer", "module load")
    shellcheck = [line for line in _said("shellcheck", "--version") if line.startswith("version:")]
    found = shellcheck[0].partition(": ")[2] if shellcheck else None
    yield Finding("shellcheck", found, "the tests of job.sbatch", "pip install 'meshwright[dev]'")


def _said(*words: str) -> list[str]:
    """The lines a program prints; none where it is missing or fails."""
    if shutil.which(words[0]) is None:
        return []
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    return Finding("disk", f"{free:,.0f} GiB free in {existing}", "run folders and their checkpoints")
