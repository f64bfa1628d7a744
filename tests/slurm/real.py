"""Runs that SLURM jobs train for real, on virtual nodes with CPUs."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshwright.emit.backends import trainer
from meshwright.jobs import launch
from meshwright.jobs.run_folder import compile_all, folder_name
from meshwright.jobs.transition import chain
from meshwright.layout.plan import Plan
from meshwright.rehearse.processes import train
from meshwright.resolver import resolve
from meshwright.spec import Launch
from meshwright.spec.launch import Slurm, Watchdog
from meshwright.train.metrics import read

__all__ = ["here", "losses", "on_slurm", "raw_steps", "submit"]


def on_slurm(
    plan: Plan,
    nodes: int,
    environment: dict[str, str] | None = None,
    watchdog: Watchdog = Watchdog(),  # noqa: B008
    **slurm: Any,
) -> Plan:
    """The same run as a job on ``nodes`` nodes, each with its share of the ranks."""
    options = Slurm(**{"gpus": "none", "mem": "4G", "time": "20", "signal_seconds": 60, "health_check": False, **slurm})
    started = Launch(
        kind="slurm",
        python=sys.executable,
        port=_free_port(),
        environment=environment or {},
        watchdog=watchdog,
        slurm=options,
    )
    cluster = replace(plan.spec.cluster, gpus=None, nodes=nodes, gpus_per_node=plan.grid.world // nodes)
    return resolve(replace(plan.spec, launch=started, cluster=cluster))


def submit(plans: Sequence[Plan], runs: Path) -> tuple[list[Path], list[str]]:
    """Compile the stages and submit them as a chain; their folders and jobs."""
    links = chain(plans)
    folders = [runs / folder_name(plan.spec) for plan in links.plans]
    compile_all(links.plans, folders, verify=False)
    return folders, [one.job or "" for one in launch.submit(folders, links.plans)]


def here(plans: Sequence[Plan], runs: Path) -> list[float]:
    """The losses of the same stages as processes of this machine, without SLURM."""
    links = chain(plans)
    folders = [runs / folder_name(plan.spec) for plan in links.plans]
    compile_all(links.plans, folders, verify=False)
    for plan, folder in zip(links.plans, folders, strict=True):
        train(trainer(plan.spec.backend.name), plan.grid.world, [str(folder)], folder / "logs")
    return losses(folders)


def losses(folders: Sequence[Path]) -> list[float]:
    """Of every step of the stages, in order."""
    return [line["loss"] for folder in folders for line in read(folder / "metrics.jsonl")]


def raw_steps(folder: Path) -> list[int]:
    """The steps as they were trained, with those that were trained again."""
    path = folder / "metrics.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [line["step"] for line in lines if "loss" in line]  # others are of validations, and of slow ranks


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
