"""SLURM's commands: submit, ask, cancel."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from meshwright.errors import ConfigError, Problem

__all__ = ["cancel", "state", "submit", "try_out"]


def submit(folder: Path, words: Sequence[str] = (), script: str = "job.sbatch") -> str:
    """Submit the script in ``folder``; the job's id. ``words`` are options that win over the script's.

    Raises:
        ConfigError: with what sbatch said, where it refuses.

    """
    done = _sbatch(folder, ["--parsable", *words, script])
    if done.returncode:
        message = f"sbatch refuses {folder}: {_one_line(done.stderr)}"
        raise ConfigError([Problem("launch.slurm", message, "slurm.sbatch")])
    return done.stdout.strip().partition(";")[0]  # behind the semicolon stands the cluster's name


def try_out(folder: Path, script: str) -> tuple[bool, str]:
    """Whether slurmctld would take the job, and what it says; nothing is submitted."""
    done = _sbatch(folder, ["--test-only", script])
    return done.returncode == 0, _one_line(done.stderr)


def state(job: str) -> str | None:
    """What squeue says of a job, for example ``PENDING (Resources)``; None where it is over."""
    if not job:  # cut off while it was written; squeue would list everybody's
        return None
    if shutil.which("squeue") is None:
        return "unknown: there is no squeue here"
    words = ["squeue", "--noheader", f"--jobs={job}", "--format=%T (%r)"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.partition("\n")[0].strip().removesuffix(" (None)") or None
    return None if "Invalid job id" in done.stderr else f"unknown: {_one_line(done.stderr)}"


def cancel(jobs: Sequence[str]) -> None:
    """Cancel what was submitted."""
    if jobs:
        subprocess.run(["scancel", *jobs], check=False)


def _sbatch(folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    if shutil.which("sbatch") is None:
        message = "there is no sbatch here; log in where SLURM is, or look at it with launch.dry_run=true"
        raise ConfigError([Problem("launch.kind", message, "slurm.sbatch")])
    return subprocess.run(["sbatch", *words], cwd=folder, capture_output=True, text=True, check=False)


def _one_line(text: str) -> str:
    return " ".join(re.sub(r"\b(sbatch|squeue): (error: |fatal: )?", "", text).split())
