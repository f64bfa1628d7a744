"""Whether processes still run."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["alive", "left"]


def alive(pid: int) -> bool:
    """Whether the process runs: one that has ended and that nobody has asked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def left(pids: list[int], seconds: float = 10) -> list[int]:
    """Those that still run after a while."""
    limit = time.monotonic() + seconds
    while (running := [pid for pid in pids if alive(pid)]) and time.monotonic() < limit:
        time.sleep(0.05)
    return running
