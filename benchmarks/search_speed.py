"""How fast a search is: ``python benchmarks/search_speed.py``. Prints a table; nothing is written.

The first line is the space of Calculon's ``llm-optimal-execution`` (calculon-ai/calculon, commit caa4b11) as far as it
is a space of layouts: tensor, pipeline and data parallelism, interleaving, micro-batches, sequence parallelism,
recomputation, optimizer sharding, overlap; without offloading, which Megatron's layouts do not have. Calculon counts
666,368 executions there (``-d``) and evaluates 56 a CPU second.
"""

from __future__ import annotations

from time import process_time

from meshwright.search.exact import search
from meshwright.search.objective import Goal
from meshwright.search.space import command_line, space

GPT = [
    "model=gpt3_175b",
    "cluster=dgx_a100_80gb",
    "cluster.gpus=64",
    "training.sequence=2048",
    "training.global_batch=64",
]

CASES = {
    "GPT 175B on 64 GPUs, Calculon's space": [
        *GPT,
        "parallelism.cp=1",
        "parallelism.zero=[0,1]",
        "parallelism.overlap_tp=[false,true]",
        "parallelism.overlap_grad_reduce=[false,true]",
    ],
    "GPT 175B on 64 GPUs, everything": GPT,
    "Llama 3 405B on 16,384 GPUs, everything": ["recipe=llama3_405b", "stage=gpus_16384"],
    "DeepSeek-V3 on 2,048 GPUs, everything": ["recipe=deepseek_v3", "stage=pretrain"],
}


def main() -> None:
    print("| space | proposed | valid | fit | CPU s | valid layouts a CPU s | best step s |")
    print("|---|---|---|---|---|---|---|")
    for name, words in CASES.items():
        run, stated = command_line(words)
        started = process_time()
        found = search(space(run.stages[-1], stated), Goal())
        seconds = process_time() - started
        best = f"{found.best[0].step_time:.3f}" if found.best else "-"
        counts = f"{found.points:,} | {found.valid:,} | {found.fitting:,}"
        print(f"| {name} | {counts} | {seconds:.1f} | {found.valid / seconds:,.0f} | {best} |")


if __name__ == "__main__":
    main()
