"""Whether a run has room: on its GPUs, in the memory its job asks for, and where its checkpoints will lie."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from meshwright.cost import cost
from meshwright.cost.checkpoints import Checkpoints, checkpoints
from meshwright.cost.fitting import fits
from meshwright.cost.memory import GIB
from meshwright.errors import Problem
from meshwright.layout.plan import Plan
from meshwright.spec.frozen import dataclass

__all__ = ["Room", "no_room", "room", "room_warnings"]


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


def no_room(plan: Plan, folder: Path) -> Iterator[Problem]:
    """What has no room: on a GPU, on a disk, in the memory that is asked for. ``launch.force`` overrides."""
    if not plan.spec.launch.force:
        yield from _too_large(plan)
        yield from _on_disk(plan, folder)
        yield from _too_little_asked(plan)


def _too_large(plan: Plan) -> Iterator[Problem]:
    """A plan that is unlikely to fit would end in its first step."""
    costs = cost(plan)
    if fits(costs.fit_probability) != "unlikely":
        return
    peak, limit = costs.peak_memory / GIB, costs.memory_limit / GIB
    best = next(iter(costs.advice), None)
    hint = f"{best.path}: {best.message}" if best else "meshwright plan says what fills it"
    message = f"{peak:.1f} GiB on a GPU that has {limit:.1f} usable; {hint}; or set launch.force=true"
    yield Problem("cluster.accelerator.memory_gib", message, "launch.memory")


def _too_little_asked(plan: Plan) -> Iterator[Problem]:
    """SLURM would end what takes more than it asked for."""
    launch, needed = plan.spec.launch, cost(plan, explained=False).host.memory / GIB
    asked = launch.slurm.mem if launch.kind == "slurm" else None
    if asked is None or not (number := re.fullmatch(r"(\d+)([KMGT]?)", asked)) or not int(number[1]):
        return
    gib = int(number[1]) * {"K": 2**10, "M": 2**20, "": 2**20, "G": 2**30, "T": 2**40}[number[2]] / GIB
    if gib < needed:
        message = f"{asked!r} is {gib:,.2f} GiB a node, and the run takes {needed:,.2f} of its memory (plan says what)"
        repair = {"launch.slurm.mem": None}
        yield Problem("launch.slurm.mem", f"{message}; or set launch.force=true", "slurm.mem_host", (repair,))


def _on_disk(plan: Plan, folder: Path) -> Iterator[Problem]:
    """The first checkpoint would end the run."""
    found, launch = room(plan, folder), plan.spec.launch
    if found is None or (folder / "DONE").exists():
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
