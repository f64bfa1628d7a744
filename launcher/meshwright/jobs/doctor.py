"""What is installed and visible here, what that allows, and what to install for the rest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from meshwright.rules.requirements import REQUIREMENTS, Requirement
from meshwright.spec.gpu_names import cluster_with, unknown_gpu

__all__ = ["Finding", "findings"]

GIB = 2**30
PATIENCE_S = 15


@dataclass(frozen=True)
class Finding:
    """``found`` is a version or a count, None where it is missing; ``allows`` what it is needed for."""

    name: str
    found: str | None
    allows: str
    install: str = ""


def findings(folder: Path) -> list[Finding]:
    """Everything that matters to a run, ``folder`` being where run folders go. Nothing heavy is imported."""
    return [_python(), *_packages(), *_components(), *_hardware(), *_programs(), _disk(folder)]


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
        found = next(filter(None, map(_version, distributions)), None)
        yield Finding(name, f"{found}, {_build()}" if found and name == "PyTorch" else found, allows, install)


def _components() -> Iterator[Finding]:
    """Of the table of requirements, what no package above is: each with the options that need it."""
    known = {name for name, *_ in PACKAGES}
    rows: dict[str, list[Requirement]] = {}
    for row in REQUIREMENTS:
        if row.component not in known:
            rows.setdefault(row.component, []).append(row)
    for component, of_it in rows.items():
        options = "; ".join(f"{row.option} (else {row.instead})" for row in of_it)
        yield Finding(component, _found(of_it[0].probe), options, of_it[0].install)


def _found(probe: str) -> str | None:
    """Where a program is, or the version of a module's package; looking for it imports nothing."""
    kind, _, name = probe.partition(":")
    if kind == "program":
        return shutil.which(name)
    if find_spec(name) is None:
        return None
    return _version(name.replace("_", "-")) or "here"


def _build() -> str:
    """What PyTorch was built for; it says so in a file, and importing it takes seconds."""
    path = Path(str(distribution("torch").locate_file("torch/version.py")))
    text = path.read_text() if path.is_file() else ""
    for name, shown in (("cuda", "CUDA"), ("hip", "ROCm")):
        number = re.search(rf"^{name}\b.*= *'([^']+)'", text, re.MULTILINE)
        if number:
            return f"built for {shown} {number[1]}"
    return "built for the CPU alone: no GPU is used"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hardware() -> Iterator[Finding]:
    said = _ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    found = f"{len(said.lines)} x {said.lines[0]}" if said.lines else None
    allows = "training at speed; without them everything runs on the CPU"
    yield Finding("GPUs", found, allows, said.why or "NVIDIA's driver")
    if said.first:
        yield _cluster(said.first.partition(",")[0])
    yield Finding("CPU cores", str(len(os.sched_getaffinity(0))), "rehearse: one process a core is fast")


def _cluster(gpu: str) -> Finding:
    """The option that describes machines with this GPU."""
    known = cluster_with(gpu)
    found = f"cluster={known}" if known else None
    return Finding("cluster", found, "plan and search for these GPUs", f"{unknown_gpu(gpu)}; docs/adding.md says how")


def _programs() -> Iterator[Finding]:
    yield _slurm()
    pyxis = "plugin of srun" if any("--container-image" in line for line in _ask("srun", "--help").lines) else None
    yield Finding("pyxis", pyxis, "launch.slurm.container=pyxis", "the site's administrator adds it to SLURM")
    enroot = _ask("enroot", "version")
    yield Finding("enroot", enroot.first, "what pyxis runs containers with", "the site's administrator adds it")
    apptainer = _ask("apptainer", "--version")
    yield Finding("apptainer", apptainer.first, "launch.slurm.container=apptainer", apptainer.why or "module load")
    shellcheck = [line for line in _ask("shellcheck", "--version").lines if line.startswith("version:")]
    found = shellcheck[0].partition(": ")[2] if shellcheck else None
    yield Finding("shellcheck", found, "the tests of job.sbatch", "pip install 'meshwright[dev]'")


def _slurm() -> Finding:
    """Often sbatch is installed where no slurmctld can be asked."""
    allows = "launch=slurm"
    if shutil.which("sbatch") is None:
        return Finding("SLURM", None, allows, "log in to a node of the cluster")
    version, partitions = _ask("sbatch", "--version"), _ask("sinfo", "--noheader", "--format=%R")
    if version.first and partitions.lines:
        return Finding("SLURM", f"{version.first}, {len(partitions.lines)} partitions", allows)
    why = version.why or partitions.why or "sinfo knows no partition"
    hint = "point SLURM_CONF at the cluster's slurm.conf, or log in to one of its nodes"
    return Finding("SLURM", None, allows, f"sbatch is here, but cannot be used ({why}); {hint}")


@dataclass(frozen=True)
class Answer:
    """The lines a program prints; ``why`` there are none, where it is here at all."""

    lines: tuple[str, ...] = ()
    why: str = ""

    @property
    def first(self) -> str | None:
        """The first line."""
        return self.lines[0] if self.lines else None


def _ask(*words: str) -> Answer:
    if shutil.which(words[0]) is None:
        return Answer()
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except (subprocess.TimeoutExpired, OSError) as error:
        slow = isinstance(error, subprocess.TimeoutExpired)
        return Answer(why=f"{words[0]} does not answer in {PATIENCE_S} s" if slow else f"{words[0]}: {error}")
    if done.returncode == 0:
        return Answer(tuple(done.stdout.splitlines()))
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    return Answer(why=last[0] if last else f"{words[0]} ends with code {done.returncode}")


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    return Finding("disk", f"{free:,.0f} GiB free in {existing}", "run folders and their checkpoints")
