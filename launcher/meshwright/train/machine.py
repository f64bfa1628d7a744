"""What a run runs on, in ``run.json`` of its folder: so that its metrics are a measurement."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshwright.train.installed import gpus, installed

__all__ = ["FILE", "describe", "read", "write"]

FILE = "run.json"


def write(folder: Path) -> None:
    """Describe this machine in ``folder``, on the first rank alone. A restart describes the machine it is on."""
    if os.environ.get("RANK", "0") == "0":
        (folder / FILE).write_text(json.dumps(describe(), indent=2) + "\n")


def describe() -> dict[str, Any]:
    """Host, GPUs of this node (none: it trains on its CPU) and the versions of what is installed."""
    found = gpus()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": platform.node(),
        "gpu": found[0]["name"] if found else None,
        "gpu_memory_mib": int(found[0]["memory"]) if found and found[0]["memory"].isdecimal() else None,
        "gpus_of_node": len(found),
        "cpus_of_node": os.cpu_count(),
        "world": int(os.environ.get("WORLD_SIZE", "1")),
        "python": platform.python_version(),
        "versions": {name: said for name, said in installed().items() if said is not None},
    }


def read(folder: Path) -> Mapping[str, Any]:
    """What the run said of its machine; empty where it never started, or with a program that says nothing.

    Raises:
        ValueError: where the file is damaged.

    """
    path = folder / FILE
    if not path.is_file():
        return {}
    told: Any = json.loads(path.read_text())
    if not isinstance(told, Mapping):
        raise ValueError(f"{FILE} holds {type(told).__name__}, not an object")
    return told
