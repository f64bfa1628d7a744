"""What is installed and visible here, what that allows, and what to install for the rest."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from meshwright.rules.requirements import REQUIREMENTS, Requirement
from meshwright.spec.frozen import dataclass
from meshwright.spec.gpu_names import cluster_with, unknown_gpu
from meshwright.spec.software import COMPONENTS
from meshwright.train.installed import found, installed, torch_build

__all__ = ["Finding", "findings", "software"]

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
    here = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", here if sys.version_info >= (3, 12) else None, "everything", "Python 3.12 or newer")


PACKAGES = (
    ("torch", "verify, rehearse, training", "pip install 'meshwright[megatron]'"),
    ("megatron_core", "backend=megatron: verdicts, rehearse, training", "pip install 'meshwright[megatron]'"),
    ("deepspeed", "backend=deepspeed: verdicts, rehearse, training", "pip install 'meshwright[deepspeed]'"),
    ("transformers", "DeepSpeed's models, Hugging Face tokenizers", "pip install 'meshwright[hf]'"),
    ("nccl", "collectives between NVIDIA GPUs", "comes with PyTorch for CUDA"),
)
"""(component, what it allows, how to get it) of what no option alone asks for."""


def _packages() -> Iterator[Finding]:
    for component, allows, install in PACKAGES:
        version = found(component)
        shown = f"{version}, {_build()}" if version and component == "torch" else version
        yield Finding(COMPONENTS[component].name, shown, allows, install)


def _components() -> Iterator[Finding]:
    """Every component of the table of requirements, with the options that need it."""
    rows: dict[str, list[Requirement]] = {}
    for row in REQUIREMENTS:
        rows.setdefault(row.component, []).append(row)
    for component, of_it in rows.items():
        options = "; ".join(dict.fromkeys(map(_option, of_it)))
        yield Finding(COMPONENTS[component].name, found(component), options, of_it[0].install)


def _option(row: Requirement) -> str:
    least = f", {row.least} or newer" if row.least else ""
    note = f": {row.note}" if row.note else ""
    return f"{row.option} (else {row.instead}{least}){note}"


def software(name: str) -> str:
    """What is installed here as an option of the group ``software`` called ``name``: the text of its file."""
    lines = [f"# What is installed on {platform.node()}, as meshwright doctor found it.", "", "# Its name."]
    lines += [f"name: {name}", "# Versions by component; null: absent.", "components:"]
    for component, version in installed().items():
        lines += [f"  # {COMPONENTS[component].name}.", f"  {component}: {json.dumps(version)}"]
    source = f"meshwright doctor on {platform.node()}, {date.today().isoformat()}"
    return "\n".join([*lines, "# Who says so.", f"source: {json.dumps(source)}"]) + "\n"


def _build() -> str:
    """What PyTorch was built for."""
    build = torch_build()
    return f"built for {build[0]} {build[1]}" if build else "built for the CPU alone: no GPU is used"


def _hardware() -> Iterator[Finding]:
    said = _ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    gpus = f"{len(said.lines)} x {said.lines[0]}" if said.lines else None
    allows = "training at speed; without them everything runs on the CPU"
    yield Finding("GPUs", gpus, allows, said.why or "NVIDIA's driver")
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
    checker = shellcheck[0].partition(": ")[2] if shellcheck else None
    yield Finding("shellcheck", checker, "the tests of job.sbatch", "pip install 'meshwright[dev]'")


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
