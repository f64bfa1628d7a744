"""A stage of a run starts with the weights and the optimizer of the one before it, and with counters of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["SAVED", "after", "first_sample", "install", "source"]

SAVED = ("latest_checkpointed_iteration.txt", "latest")  # of Megatron, of DeepSpeed: written when a checkpoint is whole
_FIRST = {"sample": 0}


def after(folder: Path) -> Mapping[str, Any] | None:
    """What ``compile`` wrote about the stage before; None for the first."""
    path = folder / "after.json"
    said: Mapping[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return said


def source(folder: Path) -> Path | None:
    """The checkpoints that a stage starts from.

    Raises:
        SystemExit: where there is none yet, or not the last one; training would silently begin with other weights.

    """
    said = after(folder)
    if said is None:
        return None
    start = folder / str(said["checkpoints"])
    saved = saved_step(start)
    if saved is None:
        raise SystemExit(f"no checkpoint in {start}: the stage before this one has not finished")
    steps = json.loads((start.parent / "plan.json").read_text())["steps"]
    if saved < steps and not (start.parent / "DONE").is_file():
        raise SystemExit(f"step {saved} of {steps} in {start}: the stage before this one has not finished")
    return start


def saved_step(checkpoints: Path) -> int | None:
    """The step of the last whole checkpoint; None where there is none."""
    for path in (checkpoints / name for name in SAVED):
        number = re.search(r"\d+", path.read_text()) if path.is_file() else None
        if number:
            return int(number[0])
    return None


def first_sample() -> int:
    """The sample of the data with which this stage begins."""
    return _FIRST["sample"]


def install(folder: Path, line: Sequence[str]) -> None:
    """Have Megatron begin a stage at its own step 0, at the right sample and the right step of the schedule."""
    from megatron.core.num_microbatches_calculator import get_current_global_batch_size
    from megatron.training import get_args, training

    said = after(folder)
    if said is None:
        return
    _FIRST["sample"] = said["sample"]
    load = training.load_checkpoint
    if line[len(line) - line[::-1].index("--load")] != str(folder / said["checkpoints"]):
        return  # it has a checkpoint of its own

    def loaded(model: Any, optimizer: Any, scheduler: Any, *rest: Any, **named: Any) -> tuple[int, int]:
        load(model, optimizer, scheduler, *rest, **named)
        args = get_args()
        args.consumed_train_samples, args.consumed_valid_samples = said["sample"], 0
        scheduler.num_steps = 0  # it counts in samples
        scheduler.step(increment=said["step"] * get_current_global_batch_size())
        return 0, 0

    training.load_checkpoint = loaded
