"""All measurements of this machine: the device's in this process, the links' in ranks of torchrun."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track

from meshwright.bench.constants import collectives
from meshwright.bench.measurement import Measurement
from meshwright.bench.modules import Row
from meshwright.bench.shapes import attention, products, small
from meshwright.errors import ConfigError, Problem
from meshwright.layout.plan import Plan

__all__ = ["measure", "measure_layer"]

CPU_RANKS = 2
PATIENCE_S = 120


def measure(plan: Plan, links: Path | None = None) -> list[Measurement]:
    """Products and attention have the shapes of ``plan``'s layers on one rank; on a CPU they are cut down.

    ``links``: what ``bench.links`` wrote on several nodes, instead of measuring this node's.

    Raises:
        ConfigError: where the ranks of the collectives fail, or ``links`` cannot be read.

    """
    import torch

    from meshwright.bench.device import tasks

    on_gpu = torch.cuda.is_available()
    shapes, one = products(plan), attention(plan)
    if not on_gpu:
        shapes, one = small(shapes, one)
    asked = list(tasks(shapes, one, plan.spec.cluster.accelerator))
    console = Console(stderr=True)
    found = [task() for _, task in track(asked, "measuring the device", console=console, transient=True)]
    if links is not None:
        return found + _read(plan, links)
    ranks = torch.cuda.device_count() if on_gpu else CPU_RANKS
    return found + (_links(plan, ranks) if ranks > 1 else [])


def _read(plan: Plan, path: Path) -> list[Measurement]:
    try:
        return collectives(plan.spec.cluster, json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"cannot read {path}: {error}; give what python -m meshwright.bench.links wrote"
        raise ConfigError([Problem("links", message, "bench.links")]) from None


def _links(plan: Plan, ranks: int) -> list[Measurement]:
    with TemporaryDirectory() as folder:
        told = Path(folder) / "links.json"
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        _ran([*words, "-m", "meshwright.bench.links", str(told)], "the ranks that measure the links")
        return _read(plan, told)


def measure_layer(plan: Plan) -> list[Row]:
    """One layer and the head of the shard ``plan`` (``bench.shard``), module by module, in a process of its own.

    Raises:
        ConfigError: where Megatron's modules cannot be built or run.

    """
    with TemporaryDirectory() as folder:
        asked, told = Path(folder) / "plan", Path(folder) / "rows.json"
        asked.write_bytes(pickle.dumps(plan))
        _ran(["-m", "meshwright.bench.layer", str(asked), str(told)], "Megatron's modules")
        return [Row(**row) for row in json.loads(told.read_text())]


def _ran(words: Sequence[str], who: str) -> None:
    """Python on ``words``; its last line where it fails."""
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError([Problem("bench", f"{who} took more than {PATIENCE_S} s", "bench.time")]) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ConfigError([Problem("bench", f"{who} failed: {last}", "bench.failed")])
