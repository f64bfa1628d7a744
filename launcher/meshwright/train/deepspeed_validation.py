"""The loss on data that are kept from training, on the way and at the end of a run with DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from meshwright.train import metrics
from meshwright.train.deepspeed_engine import Job, loss_of
from meshwright.train.samples import Samples

__all__ = ["due", "validate", "wanted"]


def wanted(program: dict[str, Any]) -> bool:
    """Whether the run validates at all."""
    asked = program["evaluation"]
    return asked["interval"] is not None or bool(asked["at_end"])


def due(program: dict[str, Any], step: int) -> bool:
    """Whether it does after ``step`` steps."""
    asked = program["evaluation"]
    on_the_way = asked["interval"] is not None and step % asked["interval"] == 0
    return on_the_way or bool(asked["at_end"] and step == program["steps"])


def validate(runner: Any, job: Job, samples: Samples, folder: Path, step: int) -> None:
    """Write the mean loss; the same batches each time, so that one value can be compared with another."""
    runner.module.eval()
    size = job.micro_batch * job.program["dp"]
    count = job.program["evaluation"]["steps"] * job.global_batch // size
    total = torch.zeros((), device=runner.device)
    with torch.no_grad():
        for micro in range(count):
            total += loss_of(runner, job, samples, micro * size).float() / count
    runner.module.train()
    dist.all_reduce(total)
    if dist.get_rank() == 0:
        metrics.write(folder / "metrics.jsonl", step=step, valid_loss=total.item() / dist.get_world_size())
