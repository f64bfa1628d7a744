"""What a run is doing, read from its run folder and, where there is one, from squeue."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from meshwright.errors import ConfigError, Problem
from meshwright.jobs import lock
from meshwright.jobs.damaged import json_object, reading
from meshwright.jobs.losses import slow_ranks, told
from meshwright.spec.frozen import dataclass
from meshwright.train.metrics import WARM_UP, Measured, measured, read
from meshwright.train.stages import SAVED

__all__ = ["Predicted", "Status", "status", "statuses"]

RECENT = 20  # steps over which rates are averaged
GIB = 2**30


@dataclass(frozen=True)
class Predicted:
    """What the plan expects, each with the interval in which 80 % of measurements would lie. None: not known."""

    step_time_s: float | None = None
    step_time_80_s: tuple[float, float] | None = None
    peak_memory: float | None = None  # bytes
    peak_memory_80: tuple[float, float] | None = None


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
    plan = reading(problems, "plan.json", lambda: _plan(folder / "plan.json")) or _Plan(folder.name)
    lines = reading(problems, "metrics.jsonl", lambda: read(folder / "metrics.jsonl")) or []
    last: Mapping[str, Any] = next((line for line in reversed(lines) if "loss" in line), {})
    validated: Mapping[str, Any] = next((line for line in reversed(lines) if "valid_loss" in line), {})
    seconds, rate = _speed(lines)
    steady = measured(lines, plan.tokens)
    events = reading(problems, "RESTARTS", lambda: _events(folder)) or []
    if (folder / "after.json").exists():
        reading(problems, "after.json", lambda: _before(folder / "after.json"))
    if (folder / "verdicts.json").exists():
        reading(problems, "verdicts.json", lambda: json.loads((folder / "verdicts.json").read_text()))
    return Status(
        folder=folder,
        name=plan.name,
        variant=plan.variant,
        stage=plan.stage,
        state=reading(problems, "JOB", lambda: _state(folder)) or "not known",
        step=int(last.get("step", 0)),
        steps=plan.steps,
        loss=_number(last, "loss"),
        grad_norm=_number(last, "grad_norm"),
        learning_rate=_number(last, "lr"),
        step_time_s=seconds,
        tokens_per_s=rate,
        mfu=None if rate is None or plan.mfu_of_a_token is None else plan.mfu_of_a_token * rate,
        predicted_mfu=plan.mfu,
        published_mfu=_published(plan.name, plan.stage or plan.variant),
        allocated=steady.allocated,
        reserved=steady.reserved,
        predicted=plan.predicted,
        starts=sum(" start " in event for event in events),
        failures=sum(" failed " in event for event in events),
        checkpoint=_checkpoint(folder, problems),
        valid_loss=_number(validated, "valid_loss"),
        valid_step=validated.get("step"),
        last_event=events[-1] if events else None,
        surprises=tuple(_surprises(plan.predicted, steady)),
        warnings=(*told(lines), *slow_ranks(lines)),
        problems=tuple(problems),
    )


@dataclass(frozen=True)
class _Plan:
    """What status needs of plan.json. ``mfu_of_a_token``: the MFU of one token a second, by the prediction."""

    name: str
    variant: str | None = None
    stage: str | None = None
    steps: int | None = None
    mfu: float | None = None
    mfu_of_a_token: float | None = None
    tokens: int = 0  # of a step
    predicted: Predicted = Predicted()


def _plan(path: Path) -> _Plan:
    told = json_object(path)
    variant, stage, steps, cost = told.get("variant"), told["stage"], told["steps"], told["cost"]
    mfu = float(cost["mfu"])
    return _Plan(
        name=str(told["name"]),
        variant=None if variant is None else str(variant),
        stage=None if stage is None else str(stage),
        steps=None if steps is None else int(steps),
        mfu=mfu,
        mfu_of_a_token=mfu / float(cost["tokens_per_second"]),
        tokens=int(told["batch"]["tokens"]),
        predicted=_predicted(cost),
    )


def _predicted(cost: Mapping[str, Any]) -> Predicted:
    def interval(name: str) -> tuple[float, float]:
        low, high = cost[name]
        return float(low), float(high)

    return Predicted(
        float(cost["step_time_s"]),
        interval("step_time_80_s"),
        float(cost["peak_memory_bytes"]),
        interval("peak_memory_80_bytes"),
    )


def _surprises(predicted: Predicted, steady: Measured) -> Iterator[str]:
    """What was measured outside the interval of its prediction."""
    for name, found, wanted, interval, unit, scale in (
        ("step time", steady.step_time, predicted.step_time_s, predicted.step_time_80_s, "s", 1.0),
        ("peak memory", steady.allocated, predicted.peak_memory, predicted.peak_memory_80, "GiB", GIB),
    ):
        if found is None or wanted is None or interval is None or interval[0] <= found <= interval[1]:
            continue
        low, high = (bound / scale for bound in interval)
        yield f"{name} {found / scale:.3g} {unit}, {found / wanted - 1:+.0%} (80 %: {low:.3g} to {high:.3g})"


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


def _published(name: str, part: str | None) -> float | None:
    """The MFU that the recipe's authors claim for the stage or variant, else for the run."""
    from meshwright.library import files as library

    if name not in library.names():
        return None
    records = {record.stage or record.variant: record for record in library.recipe(name).records}
    for record in (records.get(part), records.get(None)):
        if record is not None and "mfu" in record.claims:
            return float(record.claims["mfu"].value)
    return None


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
