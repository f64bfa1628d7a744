"""Universal checkpoints: what a stage with another layout, or a run that is told a folder of them, starts from."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from meshwright.train import stages
from meshwright.train.deepspeed_engine import Job

__all__ = ["converted", "load_universal", "prepared", "universal_start"]

_UNIVERSAL = "latest_universal"
"""The file that marks a folder of them (runtime/engine.py)."""


def prepared(job: Job, folder: Path) -> Job:
    """The job that loads the stage before; its checkpoint is converted first where the layout changes."""
    said, start = stages.after(folder), job.program["logging"]["load"]
    if said is None and start:
        wanted = job.universal or _is_universal(Path(start))
        before = None if _is_universal(Path(start)) else Path(start)
    else:
        wanted, before = said is not None and said["universal"], stages.source(folder)
    if not wanted:
        return job.from_saved()
    if before is not None:
        deepspeed.init_distributed(dist_backend=None if torch.cuda.is_available() else "gloo")
        if dist.get_rank() == 0:
            _convert(before, converted(folder))
        dist.barrier()
    return job.from_universal()


def universal_start(folder: Path, start: Path) -> Path:
    """What a run in ``folder`` loads that is told to start from ``start``: that, or what it was converted to."""
    return start if _is_universal(start) else converted(folder)


def _is_universal(folder: Path) -> bool:
    return (folder / _UNIVERSAL).is_file()


def converted(folder: Path) -> Path:
    """Where the run in ``folder`` keeps what it converted."""
    return folder / "universal"


def load_universal(runner: Any, folder: Path) -> None:
    """ZeRO 3 gives every group of parameters the first one's weight decay, and all of them one step counter.

    DeepSpeed 0.19.8, runtime/zero/stage3.py:3662 and 3682.
    """
    groups = runner.optimizer.param_groups
    decays = [group["weight_decay"] for group in groups]
    runner.load_checkpoint(str(folder))
    for group, decay in zip(groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in runner.optimizer.optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()


def _convert(before: Path, universal: Path) -> None:
    """DeepSpeed's own tool: one file a parameter and state, which any number of ranks can read."""
    from deepspeed.checkpoint import ds_to_universal

    if not (before / "latest").is_file():
        raise SystemExit(f"training.logging.load: no checkpoint in {before}")
    tag = (before / "latest").read_text().strip()
    shutil.rmtree(universal, ignore_errors=True)  # of a conversion that was cut off
    words = ["--input_folder", str(before / tag), "--output_folder", str(universal / tag), "--inject_missing_state"]
    sys.argv, line = ["ds_to_universal", *words, "--num_extract_workers", "1", "--num_merge_workers", "1"], sys.argv
    ds_to_universal.main(ds_to_universal.parse_arguments())
    sys.argv = line
    (universal / _UNIVERSAL).write_text(tag)
