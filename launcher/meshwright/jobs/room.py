"""Whether a run's checkpoints have room where they will lie, as far as this machine sees that disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshwright.cost.checkpoints import Checkpoints, checkpoints
from meshwright.errors import Problem
from meshwright.layout.plan import Plan

__all__ = ["Room", "room", "room_problems", "room_warnings"]

GIB = 2**30


@dataclass(frozen=True)
class Room:
    """What is to lie on the disk of the folder ``disk``, of which ``free_gib`` are free and ``there`` lie there."""

    disk: Path
    free_gib: float
    there: int
    asked: Checkpoints

    @property
    def wanted_gib(self) -> float:
        """Of all that will be kept and are not there yet; of one where the run's length is not stated."""
        return max(1, (self.asked.kept or 1) - self.there) * self.asked.each_gib


def room(plan: Plan, folder: Path) -> Room | None:
    """None where the run writes none, or into a folder that is not of this machine."""
    asked, save = checkpoints(plan), plan.spec.training.logging.save
    if asked is None:
        return None
    where = Path(save or folder / "checkpoints").absolute()
    disk = next(path for path in (where, *where.parents) if os.path.exists(path))
    if save is not None and plan.spec.launch.kind == "slurm" and disk not in (where, where.parent):
        return None
    there = len([*where.glob("iter_*"), *where.glob("step*")])
    return Room(disk, shutil.disk_usage(disk).free / GIB, there, asked)


def room_problems(plan: Plan, folder: Path) -> Iterator[Problem]:
    """The first checkpoint would end the run."""
    found, launch = room(plan, folder), plan.spec.launch
    if found is None or launch.force or (folder / "DONE").exists():
        return
    stated = launch.slurm.checkpoint_disk_gib if launch.kind == "slurm" else None
    needed = found.asked.each_gib if stated is None else stated
    if found.free_gib < needed:
        message = f"a checkpoint takes {needed:,.1f} GiB, and {found.free_gib:,.1f} are free in {found.disk}"
        hint = "name a larger disk, training.logging.checkpoints=false, or set launch.force=true"
        yield Problem("training.logging.save", f"{message}; {hint}", "launch.disk")


def room_warnings(plans: Sequence[Plan], folders: Sequence[Path]) -> Iterator[str]:
    """One line a disk that holds a checkpoint, but not all that its stages keep."""
    rooms = [found for plan, folder in zip(plans, folders, strict=True) if (found := room(plan, folder))]
    for device in dict.fromkeys(found.disk.stat().st_dev for found in rooms):
        there = [found for found in rooms if found.disk.stat().st_dev == device]
        wanted, free = sum(found.wanted_gib for found in there), there[0].free_gib
        if max(found.asked.each_gib for found in there) <= free < wanted:
            yield (
                f"training.logging.keep_last: what the run keeps takes {wanted:,.1f} GiB more, and {free:,.1f} are "
                f"free in {there[0].disk}: it ends once they are full; keep fewer, or save less often"
            )
