"""Is this node fit to train? ``health.py GPUS GIB KEPT FOLDER [KIND:NAME ...]``, one process a rank.

KIND is ``module`` (``NAME`` or ``NAME>=VERSION``), ``program``, ``file``, or ``memory``: its NAME is what a node
needs, in GiB. GIB is the size of a checkpoint, KEPT how many lie in FOLDER at once; what lies there needs no more room.

It is copied into every run folder and stands alone (PyTorch, nothing of ours), so that it runs in any container. A node
that lacks GPUs, disk space or a component is named in a line that begins with ``unfit``; then all ranks add up their
ones, on the network that training will use.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

__all__ = ["main", "memory_gib", "missing"]

PATIENCE = timedelta(seconds=300)
GIB = 2**30
OTHERWISE = "launch where it is, or change the option that needs it (plan says)"


def missing(gpus: int, gib: float, kept: int, folder: Path, needs: Sequence[str] = ()) -> Iterator[str]:
    """What this node lacks."""
    import torch

    if torch.cuda.device_count() < gpus:
        yield f"{torch.cuda.device_count()} GPUs visible, {gpus} needed"
    folder.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder).free / GIB, gib * max(1, kept - len(_whole(folder)))
    if free < needed:
        yield f"{free:.1f} GiB free for checkpoints in {folder}, {needed:.1f} needed"
    for kind, _, name in (need.partition(":") for need in needs):
        if kind == "memory":
            if (there := memory_gib()) < float(name):
                yield f"{there:.1f} GiB of memory for this job, {name} needed"
        elif kind == "file":
            if not os.access(name, os.R_OK):
                yield f"{name} cannot be read; the run needs it"
        elif kind == "module":
            yield from _lacks_module(*name.partition(">=")[::2])
        elif shutil.which(name) is None:
            yield f"the {kind} {name} is not there; {OTHERWISE}"


def _lacks_module(name: str, least: str) -> Iterator[str]:
    """Of a module that does not say its version, none is asked."""
    if find_spec(name) is None:
        yield f"the module {name} is not there; {OTHERWISE}"
    elif least:
        try:
            there = version(name)
        except PackageNotFoundError:
            return
        if _numbers(there) < _numbers(least):
            yield f"the module {name} is {there} there, {least} or newer needed; {OTHERWISE}"


def _numbers(of: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", of.partition("+")[0])[:3]]


def memory_gib(root: Path = Path("/")) -> float:
    """Of this node, or of the control group that SLURM's --mem makes (cgroup v2), where that is less."""
    (total,) = re.findall(r"MemTotal:\s+(\d+) kB", (root / "proc/meminfo").read_text())
    limits = [int(total) * 1024]
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            own = root / "sys/fs/cgroup" / line[3:].strip().lstrip("/")
            files = [folder / "memory.max" for folder in (own, *own.parents)]
            limits += [int(said) for file in files if file.is_file() and (said := file.read_text().strip()).isdecimal()]
    return min(limits) / GIB


def _whole(folder: Path) -> list[Path]:
    """Megatron's and DeepSpeed's checkpoints."""
    return [*folder.glob("iter_*"), *folder.glob("step*")]


def main(gpus: int, gib: float, kept: int, folder: Path, needs: Sequence[str] = ()) -> int:
    """0 where this node and the ways to all others are fit."""
    lacks = list(missing(gpus, gib, kept, folder, needs)) if os.environ["LOCAL_RANK"] == "0" else []
    for lack in lacks:
        print(f"unfit {socket.gethostname()}: {lack}", flush=True)
    return 1 if lacks else _add_up(gpus > 0)


def _add_up(on_gpus: bool) -> int:
    import torch
    import torch.distributed as dist

    local = int(os.environ["LOCAL_RANK"])
    if on_gpus:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=PATIENCE)
    one = torch.ones(1, device=f"cuda:{local}" if on_gpus else "cpu")
    dist.all_reduce(one)
    fit = one.item() == dist.get_world_size()
    if not fit:
        print(f"unfit {socket.gethostname()}: all ranks' ones add up to {one.item():g}", flush=True)
    dist.destroy_process_group()
    return 0 if fit else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:]))
