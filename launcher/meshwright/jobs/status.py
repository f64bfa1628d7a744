"""What a run is doing, read from its run folder and, where there is one, from squeue."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from meshwright.errors import ConfigError, Problem
from meshwright.jobs import lock
from meshwright.jobs.damaged import json_object, reading
from meshwright.jobs.losses import slow_ranks, told
from meshwright.jobs.predicted import Planned, Predicted, planned, published_mfu, surprises
from meshwright.spec.frozen import dataclass
from meshwright.train.metrics import WARM_UP, measured, read
from meshwright.train.stages import SAVED

__all__ = ["Status", "status", "statuses"]

RECENT = 20  # steps over which rates are averaged


@dataclass(frozen=True)
class Status:
    """One run folder. ``None``: not known (yet)."""

    folder: Path
    name: str
    variant: str | None
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
    allocated: float | None  # bytes of the fullest rank at its peak
    reserved: float | None
    predicted: Predicted
    starts: int
    failures: int
    checkpoint: int | None  # its step
    valid_loss: float | None  # of the last validation
    valid_step: int | None
    last_event: str | None
    surprises: tuple[str, ...] = ()  # where measured and predicted part
    warnings: tuple[str, ...] = ()  # what the loss did of late, and a slow rank
    problems: tuple[str, ...] = ()  # files of the folder that cannot be read, and why


def statuses(folder: Path) -> list[Status]:
    """Of a run folder, or of every run folder in it (the stages of a recipe).

    Raises:
        ConfigError: where there is none.

    """
    if (folder / "plan.json").is_file():
        return [status(folder)]
    found = sorted(path.parent for path in folder.glob("*/plan.json"))
    if not found:
        what = "holds no run" if folder.is_dir() else "is no folder"
        raise ConfigError([Problem("", f"{folder} {what}; give a folder that compile or launch wrote")])
    return sorted(map(status, found), key=lambda one: _order(one.folder))


def _order(folder: Path) -> tuple[int, str]:
    """Stages in the order in which one goes on from the other; where that cannot be read, by name."""
    path, seen = folder / "after.json", [folder.resolve()]
    while path.is_file():
        before = reading([], "", lambda: _before(path))  # noqa: B023
        if before is None or before in seen:
            break
        seen.append(before)
        path = before / "after.json"
    return len(seen) - 1, folder.name


def _before(path: Path) -> Path:
    return (path.parent / str(json_object(path)["checkpoints"])).parent.resolve()


def status(folder: Path) -> Status:
    """Of one run folder. A file that cannot be read is named in ``problems``; the others still count."""
    problems: list[str] = []
    plan = reading(problems, "plan.json", lambda: planned(folder / "plan.json")) or Planned(folder.name)
    lines = reading(problems, "metrics.jsonl", lambda: read(folder / "metrics.jsonl")) or []
    seconds, rate = _speed(lines)
    steady = measured(lines, plan.tokens)
    events = reading(problems, "RESTARTS", lambda: _events(folder)) or []
    _read_whole(folder, problems)
    return Status(
        folder=folder,
        name=plan.name,
        variant=plan.variant,
        stage=plan.stage,
        state=reading(problems, "JOB", lambda: _state(folder)) or "not known",
        steps=plan.steps,
        **_reached(lines),
        step_time_s=seconds,
        tokens_per_s=rate,
        mfu=None if rate is None or plan.mfu_of_a_token is None else plan.mfu_of_a_token * rate,
        predicted_mfu=plan.mfu,
        published_mfu=published_mfu(plan.name, plan.stage or plan.variant),
        allocated=steady.allocated,
        reserved=steady.reserved,
        predicted=plan.predicted,
        starts=sum(" start " in event for event in events),
        failures=sum(" failed " in event for event in events),
        checkpoint=_checkpoint(folder, problems),
        last_event=events[-1] if events else None,
        surprises=tuple(surprises(plan.predicted, steady)),
        warnings=(*told(lines), *slow_ranks(lines)),
        problems=tuple(problems),
    )


def _read_whole(folder: Path, problems: list[str]) -> None:
    """What others read of the folder can be read."""
    if (folder / "after.json").exists():
        reading(problems, "after.json", lambda: _before(folder / "after.json"))
    if (folder / "verdicts.json").exists():
        reading(problems, "verdicts.json", lambda: json.loads((folder / "verdicts.json").read_text()))


def _reached(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the last step and the last validation left."""
    last: Mapping[str, Any] = next((line for line in reversed(lines) if "loss" in line), {})
    validated: Mapping[str, Any] = next((line for line in reversed(lines) if "valid_loss" in line), {})
    return {
        "step": int(last.get("step", 0)),
        "loss": _number(last, "loss"),
        "grad_norm": _number(last, "grad_norm"),
        "learning_rate": _number(last, "lr"),
        "valid_loss": _number(validated, "valid_loss"),
        "valid_step": validated.get("step"),
    }


def _speed(lines: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Seconds a step and tokens a second of the same recent steps, without the first ones of the run.

    Tokens of all of them over their whole time: the mean of each step's rate would be larger than that.
    """
    timed = [(_number(line, "step_time_s"), _number(line, "tokens_per_s")) for line in lines]
    known = [(seconds, rate) for seconds, rate in timed if seconds and rate is not None]
    steady = known[min(WARM_UP, max(0, len(known) - 1)) :][-RECENT:]
    if not steady:
        return None, None
    total = sum(seconds for seconds, _ in steady)
    return total / len(steady), sum(seconds * rate for seconds, rate in steady) / total


def _number(line: Mapping[str, Any], name: str) -> float | None:
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


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


def _checkpoint(folder: Path, problems: list[str]) -> int | None:
    """The step of the last whole checkpoint: Megatron's or DeepSpeed's."""
    where = reading(problems, "config.yaml", lambda: _saves(folder)) or folder / "checkpoints"
    for name in SAVED:
        if (where / name).exists():
            step = reading(problems, f"{where.name}/{name}", lambda: _step(where / name))  # noqa: B023
            if step is not None:
                return step
    return None


def _step(path: Path) -> int:
    number = re.search(r"\d+", path.read_text())
    if number is None:
        raise ValueError("names no step")
    return int(number[0])


def _saves(folder: Path) -> Path:
    text = (folder / "config.yaml").read_text()
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is no YAML: {str(error).splitlines()[0]}") from None
    return folder / str(config["training"]["logging"]["save"] or "checkpoints")
