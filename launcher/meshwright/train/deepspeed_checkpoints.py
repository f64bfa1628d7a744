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

__all__ = ["converted", "load_universal", "prepared"]

_UNIVERSAL = "latest_universal"
"""The file that marks a folder of them (runtime/engine.py)."""


def prepared(job: Job, folder: Path) -> Job:
    """The job that loads the stage before; its checkpoint is converted first where the layout changes."""
    said, start = stages.after(folder), job.program["logging"]["load"]
    if said is None and start and (Path(start) / _UNIVERSAL).is_file():
        return job.from_universal()
    if said is None or not said["universal"]:
        return job
    deepspeed.init_distributed(dist_backend=None if torch.cuda.is_available() else "gloo")
    if dist.get_rank() == 0:
        _convert(stages.source(folder), converted(folder))
    dist.barrier()
    return job.from_universal()


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


def _convert(before: Path | None, universal: Path) -> None:
    """DeepSpeed's own tool: one file a parameter and state, which any number of ranks can read."""
    from deepspeed.checkpoint import ds_to_universal

    assert before is not None
    tag = (before / "latest").read_text().strip()
    shutil.rmtree(universal, ignore_errors=True)  # of a conversion that was cut off
    words = ["--input_folder", str(before / tag), "--output_folder", str(universal / tag), "--inject_missing_state"]
    sys.argv, line = ["ds_to_universal", *words, "--num_extract_workers", "1", "--num_merge_workers", "1"], sys.argv
    ds_to_universal.main(ds_to_universal.parse_arguments())
    sys.argv = line
    (universal / _UNIVERSAL).write_text(tag)
