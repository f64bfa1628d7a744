"""One job a run folder: the file ``JOB`` in it names the job that has it."""

from __future__ import annotations

import re
import time
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.jobs import slurm

__all__ = ["claim", "owner", "release", "take"]

SUBMITTING = "submitting"
JOB_ID = re.compile(r"\d+(_\d+)?")
PATIENCE_S = 60  # after which a launch that was cut off between claim and submission no longer counts


def claim(folder: Path) -> None:
    """Reserve ``folder`` for a job that is about to be submitted.

    Raises:
        ConfigError: where another job has it, or another launch is about to.

    """
    path = folder / "JOB"
    try:
        with path.open("x") as file:
            file.write(SUBMITTING)
        return
    except FileExistsError:
        holder = owner(folder)
    if holder:
        message = f"{folder}: {holder}; a second job would overwrite its checkpoints. Cancel it first, or wait"
        raise ConfigError([Problem("launch", message, "launch.twice")])
    path.write_text(SUBMITTING)


def take(folder: Path, job: str) -> None:
    """``job`` was submitted."""
    (folder / "JOB").write_text(f"{job}\n")


def release(folder: Path) -> None:
    """Nothing was submitted after all."""
    (folder / "JOB").unlink(missing_ok=True)


def owner(folder: Path) -> str | None:
    """The job that has ``folder`` and how it fares, for example ``job 12 is RUNNING``; None where it is free."""
    path = folder / "JOB"
    if not path.is_file():
        return None
    job = path.read_text(errors="replace").strip()
    if not JOB_ID.fullmatch(job) and job != SUBMITTING:  # damaged, or cut off while it was written: nobody's
        return None
    if job == SUBMITTING:
        return "is being submitted" if time.time() - path.stat().st_mtime < PATIENCE_S else None
    said = slurm.state(job)
    return f"job {job} is {said}" if said else None
