"""The launcher's words that are emitted; ranks that fail are started again, none is watched."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """0 where all ranks of a round end with 0, else 1."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("nnodes", "rdzv-backend", "rdzv-endpoint", "rdzv-conf", "rdzv-id", "nproc-per-node", "max-restarts"):
        parser.add_argument(f"--{name}")
    for name in ("ft-rank-section-timeouts", "ft-rank-out-of-section-timeout", "term-timeout", "log-dir"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--standalone", action="store_true")
    parser.add_argument("-m", "--module", action="store_true")
    parser.add_argument("program")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args(words)
    command = [sys.executable, *["-m"] * asked.module, asked.program, *asked.words]
    rounds = range(int(asked.max_restarts) + 1)
    return 0 if any(_round(command, int(asked.nproc_per_node), number) for number in rounds) else 1


def _round(command: Sequence[str], ranks: int, number: int) -> bool:
    said = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": str(number), "WORLD_SIZE": str(ranks)}
    started = [
        subprocess.Popen(command, env={**os.environ, **said, "RANK": str(rank), "FT_RANK_MONITOR_IPC_SOCKET": "none"})
        for rank in range(ranks)
    ]
    return not any([process.wait() for process in started])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
