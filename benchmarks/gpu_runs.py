"""Write docs/gpu.md: ``python benchmarks/gpu_runs.py [FOLDER...]`` takes in what run folders measured first.

A run is known by its name: the first field of a line of docs/gpu_list.txt (name, patience in seconds, words of
``meshwright launch``), which a machine with a GPU runs as ``meshwright launch WORDS name=NAME``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshwright.cost import Cost, cost
from meshwright.loading import load
from meshwright.measured.runs import folders_in, run_row
from meshwright.resolver import resolve
from meshwright.train import machine, metrics

DOCS = Path(__file__).parents[1] / "docs"
LIST, RUNS, TARGET = DOCS / "gpu_list.txt", DOCS / "gpu_runs.json", DOCS / "gpu.md"
GIB = 2**30
NAMED = ("torch", "transformer_engine", "megatron_core", "deepspeed", "driver")

INTRODUCTION = """\
# What ran on a GPU

Written by `python benchmarks/gpu_runs.py [FOLDER...]` from the metrics of run folders. One GPU each, mock data;
measured is the median of the later half of the steps, and what PyTorch's allocator gave out (and held) at its peak.
Predicted is what `meshwright plan` says today: `experts` and `gemma2` each settled a constant of it (docs/cost.md), the
others none.

To run what has not: on a machine with an H100, for each line `NAME|SECONDS|WORDS` of [gpu_list.txt](gpu_list.txt)
`meshwright launch WORDS name=NAME`, then the command above with the run folders.
"""

NEVER = """
## Never run on a GPU

Several GPUs, and so every kind of parallelism but ZeRO on one rank, NCCL, `launch=slurm` with GPUs; going on from a
checkpoint; `bench` and `bench layer`; the verdicts' building of Transformer Engine's own layers; Megatron's report of
slow ranks (`--log-straggler`), which reads CUDA's events and each GPU's temperature: that its flags are parsed is all
that is tested. NVIDIA's resiliency extension ran on a CPU alone (its Python, two ranks on one node): with 0.6.0 a rank
that hung in a step was started again within the job and the run went on from its checkpoint, with 0.7.0 the ranks saved
at USR1 and the launcher ended with 0. Its launcher on several nodes, and its health checks of GPUs and of network
cards, never ran.
"""


def main(folders: Sequence[str]) -> None:
    known = json.loads(RUNS.read_text())
    asked = dict(listed())
    for folder in folders_in(map(Path, folders)):
        row = run_row(folder)
        if row.spec.name in asked:
            known[row.spec.name] = measured(folder, row.measured)
    RUNS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    TARGET.write_text("\n".join(page(asked, known)) + NEVER)


def listed() -> Iterator[tuple[str, list[str]]]:
    """(name, words) of every line."""
    for line in LIST.read_text().splitlines():
        name, _, words = line.split("|")
        yield name, words.split()


def measured(folder: Path, cells: Mapping[str, str]) -> dict[str, Any]:
    """What the page says of one run folder."""
    ran_on, lines = machine.read(folder), metrics.read(folder / "metrics.jsonl")
    found = metrics.measured(lines, 0)  # of memory: over all steps
    return {
        "gpu": cells["gpu"],
        "date": str(ran_on.get("started", ""))[:10],
        "step_time_s": float(cells["iter_time_s"]),
        "allocated_gib": None if found.allocated is None else found.allocated / GIB,
        "reserved_gib": None if found.reserved is None else found.reserved / GIB,
        "versions": {name: said for name, said in (ran_on.get("versions") or {}).items() if name in NAMED},
    }


def page(asked: Mapping[str, list[str]], known: Mapping[str, Any]) -> Iterator[str]:
    yield INTRODUCTION
    yield "| run | step, s | predicted | peak, GiB (held) | predicted | GPU, versions |"
    yield "|---|---|---|---|---|---|"
    for name, words in asked.items():
        costs = cost(resolve(load(words).stages[0]))
        yield f"| {name} | {' | '.join(cells(costs, known.get(name)))} |"
    yield "\n| run | words |\n|---|---|"
    yield from (f"| {name} | `{' '.join(words)}` |" for name, words in asked.items())


def cells(costs: Cost, found: Mapping[str, Any] | None) -> tuple[str, ...]:
    seconds, gib = costs.step_time, costs.peak_memory / GIB
    if found is None:
        return "never run", f"{seconds:.3g}", "", f"{gib:.1f}", ""
    versions = ", ".join(f"{name} {said}" for name, said in found["versions"].items())
    held = "" if found["reserved_gib"] is None else f" ({found['reserved_gib']:.1f})"
    return (
        f"{found['step_time_s']:.3g}",
        f"{seconds:.3g} ({seconds / found['step_time_s'] - 1:+.1%})",
        f"{found['allocated_gib']:.1f}{held}",
        f"{gib:.1f} ({gib / found['allocated_gib'] - 1:+.1%})",
        f"{found['gpu']}, {versions}, {found['date']}",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
