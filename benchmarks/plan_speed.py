"""CPU seconds of ``meshwright plan``: ``python benchmarks/plan_speed.py [RUNS]``. Prints a table; nothing is written.

Seconds are a process's own (user and system), the interpreter's start included; the median is what to quote. Bytecode
is kept, as after an installation: a first run, which may write it, does not count. Compiling a plan's 130 modules each
time (PYTHONDONTWRITEBYTECODE) takes a tenth of a second more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median

CASES = {
    "llama3_405b, six stages": ["recipe=llama3_405b"],
    "llama3_405b, one stage": ["recipe=llama3_405b", "stage=gpus_16384"],
    "deepseek_v3": ["recipe=deepseek_v3"],
    "tiny": ["model=tiny", "cluster=local_cpu", "cluster.gpus=8"],
}


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    print("| plan | least CPU s | median | most |")
    print("|---|---|---|---|")
    for name, words in CASES.items():
        cpu_seconds(words)
        seconds = sorted(cpu_seconds(words) for _ in range(runs))
        print(f"| {name} | {seconds[0]:.2f} | {median(seconds):.2f} | {seconds[-1]:.2f} |")


def cpu_seconds(words: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "meshwright.cli", "plan", *words]
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
