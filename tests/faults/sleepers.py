"""Ranks that wait for ever, each with a child of a program of its own, and say who they are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str]) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    fork = os.fork()
    if fork:
        folder, ends = Path(words[0]), words[1:]
        (folder / f"pids{os.environ['RANK']}").write_text(f"{os.getpid()} {child.pid} {fork}\n")
        if os.environ["RANK"] in ends:
            while len(list(folder.glob("pids*"))) < int(os.environ["WORLD_SIZE"]):
                time.sleep(0.01)
            raise RuntimeError("this rank has failed")
    time.sleep(600)
