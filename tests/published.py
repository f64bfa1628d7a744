"""What fixtures of published configurations share: their form, and how some families of launch scripts start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshwright.imports.check import Checked, checked
from meshwright.imports.read import imported


@dataclass(frozen=True)
class Published:
    """``facts``: the file's own values in our words; ``wanted``: numbers of its Plan, from the same source."""

    source: str
    file: str
    facts: str
    wanted: dict[str, Any]
    words: tuple[str, ...] = ()
    answers: dict[str, str] = field(default_factory=dict)


def judged(one: Published, folder: Path) -> Checked:
    path = folder / one.file
    path.write_text(one.facts)
    return checked(imported([path], one.answers), one.words)


def numbers(result: Checked) -> dict[str, Any]:
    plan = result.plan
    assert plan is not None, [said.message for said in result.said]
    p, t = plan.spec.parallelism, plan.spec.training
    return {
        "parameters": round(plan.total_parameters / 1e9, 1),
        "layout": (plan.grid.tp, plan.grid.pp, plan.grid.dp, plan.grid.ep),
        "zero": p.zero,
        "recompute": p.recompute,
        "batch": (plan.batch.micro_batch, plan.batch.global_batch, plan.batch.sequence),
        "precision": t.precision,
        "lr": t.optimizer.lr,
        "steps": plan.steps,
        "warmup": t.schedule.warmup_steps,
        "activation": plan.spec.model.activation,
        "backend": plan.spec.backend.name,
    }


BIGSCIENCE = (
    "HOST=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)\n"
    "RANKS='--nproc_per_node {gpus} --nnodes {nodes}'\n"
    'export LAUNCHER="python -u -m torch.distributed.run $RANKS --master_addr $HOST"\n'
    'export CMD=" pretrain_gpt.py {arguments}"\n'
    "srun --jobid $SLURM_JOBID bash -c '$LAUNCHER --node_rank $SLURM_PROCID $CMD' 2>&1 | tee -a log.txt\n"
)


def bigscience(nodes: int, gpus: int, arguments: str) -> str:
    """How the BigScience workshop starts Megatron-DeepSpeed on Jean Zay."""
    head = f"#!/bin/bash\n#SBATCH --nodes={nodes}\n#SBATCH --ntasks-per-node=1\n#SBATCH --gres=gpu:{gpus}\n"
    return head + BIGSCIENCE.format(nodes=nodes, gpus=gpus, arguments=arguments)


def megatron(gpus: int, *arguments: str, nodes: int = 1, before: str = "") -> str:
    """How Megatron-LM's examples start it: arrays of arguments behind torchrun."""
    arrays = "".join(f"A{i}=(\n    {part}\n)\n" for i, part in enumerate(arguments))
    named = " ".join(f"${{A{i}[@]}}" for i in range(len(arguments)))
    distributed = f"D=(--nproc_per_node {gpus} --nnodes {nodes} --master_addr ${{MASTER_ADDR:-node0}})\n"
    start = f"torchrun ${{D[@]}} pretrain_gpt.py {named}\n"
    return f"#!/bin/bash\nexport CUDA_DEVICE_MAX_CONNECTIONS=1\n{before}{arrays}{distributed}{start}"
