"""Under ``ft_launcher`` of NVIDIA's resiliency extension, which starts ranks again within their job."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

__all__ = ["note_restart", "stopped"]

SOCKET = "FT_RANK_MONITOR_IPC_SOCKET"  # a rank's way to its monitor (nvidia-resiliency-ext 0.6.0, data.py:27)
RESTARTS = "TORCHELASTIC_RESTART_COUNT"


def stopped() -> int:
    """The code of a rank that was asked to save and end.

    EX_TEMPFAIL: start me again. To ``ft_launcher`` any code but 0 is a failure, after which it starts all ranks anew.
    """
    return 0 if SOCKET in os.environ else os.EX_TEMPFAIL


def note_restart(folder: Path) -> None:
    """A line in ``RESTARTS`` where the launcher, not a job, has started the ranks again."""
    count = int(os.environ.get(RESTARTS, "0"))
    if count and os.environ.get("RANK", "0") == "0":
        job = os.environ.get("SLURM_JOB_ID", "here")
        with (folder / "RESTARTS").open("a") as file:
            file.write(f"{datetime.now():%FT%T} {job} restarted within the job, for the {count}. time\n")
