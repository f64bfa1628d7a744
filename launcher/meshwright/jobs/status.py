"""What a run is doing, read from its run folder and, where there is one, from squeue."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meshwright.errors import ConfigError, Problem
from meshwright.jobs import lock
from meshwright.train.metrics import read
from meshwright.train.stages import SAVED

__all__ = ["Status", "status", "statuses"]

RECENT = 20  # steps over which rates are averaged; the first of a start is slow


@dataclass(frozen=True)
class Status:
    """One run folder. ``None``: not known (yet)."""

    folder: Path
    name: str
    stage: str | None
    state: str  # done; what squeue says; running here; or not running
    step: int
    steps: int | None
    loss: float | None
    grad_norm: float | None
    learning_rate: float | None
    step_time_s: float | None
    tokens_per_s: float | None
    mfu: float | None
    predicted_mfu: float | None
    published_mfu: float | None
    starts: int
    failures: int
    checkpoint: int | None  # its step
    last_event: str | None


def statuses(folder: Path) -> list[Status]:
    """Of a run folder, or of every run folder in it (the stages of a recipe).

    Raises:
        ConfigError: where there is none.

    """
    if (folder / "plan.json").is_file():
        return [status(folder)]
    found = sorted(path.parent for path in folder.glob("*/plan.json"))
    if not found:
        raise ConfigError([Problem("", f"{folder} holds no run; give a folder that compile or launch wrote")])
    return sorted(map(status, found), key=lambda one: _order(one.folder))


def _order(folder: Path) -> tuple[int, str]:
    """Stages in the order in which one goes on from the other."""
    path, depth = folder / "after.json", 0
    while path.is_file():
        path = (path.parent / json.loads(path.read_text())["checkpoints"]).parent.resolve() / "after.json"
        depth += 1
    return depth, folder.name


def status(folder: Path) -> Status:
    """Of one run folder."""
    plan = json.loads((folder / "plan.json").read_text())
    lines = read(folder / "metrics.jsonl")
    last: Mapping[str, Any] = lines[-1] if lines else {}
    rate = _mean(line["tokens_per_s"] for line in lines[-RECENT:])
    events = _events(folder)
    return Status(
        folder=folder,
        name=plan["name"],
        stage=plan["stage"],
        state=_state(folder),
        step=last.get("step", 0),
        steps=plan["steps"],
        loss=last.get("loss"),
        grad_norm=last.get("grad_norm"),
        learning_rate=last.get("lr"),
        step_time_s=_mean(line["step_time_s"] for line in lines[-RECENT:]),
        tokens_per_s=rate,
        mfu=_mfu(plan, rate),
        predicted_mfu=plan["cost"]["mfu"],
        published_mfu=_published(plan["name"], plan["stage"]),
        starts=sum(" start " in event for event in events),
        failures=sum(" failed " in event for event in events),
        checkpoint=_checkpoint(folder),
        last_event=events[-1] if events else None,
    )


def _state(folder: Path) -> str:
    if (folder / "DONE").is_file():
        return "done"
    return lock.owner(folder) or ("running here" if _locked(folder / ".lock") else "not running")


def _locked(path: Path) -> bool:
    """Whether launch.sh works in the folder: it holds this lock as long as it does."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False


def _events(folder: Path) -> list[str]:
    path = folder / "RESTARTS"
    return path.read_text().splitlines() if path.is_file() else []


def _mean(values: Iterator[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def _mfu(plan: Mapping[str, Any], tokens_per_s: float | None) -> float | None:
    """The prediction says how much MFU a token a second is."""
    cost = plan["cost"]
    return None if tokens_per_s is None else cost["mfu"] * tokens_per_s / cost["tokens_per_second"]


def _published(name: str, stage: str | None) -> float | None:
    """The MFU that the recipe's authors claim for the stage, else for the run."""
    from meshwright.library import files as library

    if name not in library.names():
        return None
    records = {record.stage: record for record in library.recipe(name).records}
    for record in (records.get(stage), records.get(None)):
        if record is not None and "mfu" in record.claims:
            return float(record.claims["mfu"].value)
    return None


def _checkpoint(folder: Path) -> int | None:
    """The step of the last whole checkpoint: Megatron's or DeepSpeed's."""
    for name in SAVED:
        path = _saves(folder) / name
        if path.is_file():
            number = re.search(r"\d+", path.read_text())
            return int(number[0]) if number else None
    return None


def _saves(folder: Path) -> Path:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return folder / (config["training"]["logging"]["save"] or "checkpoints")
