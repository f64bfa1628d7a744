"""What ``compile`` writes is read back to the same Plan: DeepSpeed's files, ``launch.sh`` and ``job.sbatch``."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from meshwright.emit.backends import FILES
from meshwright.imports.read import imported
from meshwright.imports.run import described
from meshwright.layout.length import UNSTATED_STEPS
from meshwright.resolver import holds, resolve
from meshwright.spec import Spec
from meshwright.spec.launch import Launch, Slurm
from read_back import again, written
from samples import stages_for

pytest.importorskip("tree_sitter_bash")

SLURM = Slurm(
    account="a1",
    partition="gpu",
    time="1-00:00:00",
    gpus="gres",
    gpu_type="h100",
    cpus_per_task=8,
    constraint="x&y",
    modules=("cuda/12",),
    container="pyxis",
    image="img#x",
    mounts=("/a:/a",),
    extra=("--hint=nomultithread",),
    comment="it's",
    signal_seconds=120,
    requeue=False,
)
SAMPLE = 30  # one of as many in `make test`


def cases(*backends: str) -> Iterator[Any]:
    for backend in backends:
        for name, spec in stages_for(backend).items():
            often = zlib.crc32(f"{name} {backend}".encode()) % SAMPLE == 0
            # all of them take minutes
            yield pytest.param(spec, id=f"{name}-{backend}", marks=() if often else pytest.mark.slow)


@pytest.mark.parametrize("spec", cases("deepspeed"))
def test_a_deepspeed_run_folder(spec: Spec, tmp_path: Path) -> None:
    plan = resolve(spec)
    folder = written(plan, tmp_path) / "deepspeed"
    whole = imported([folder / "ds_config.json"])
    assert [remark for remark in whole.remarks] == []
    assert {found.key for found in whole.found if found.fate == "dropped"} <= {"name", "dp"}
    copy = again(folder / "ds_config.json", spec, f"cluster.gpus={plan.grid.world}")
    assert FILES["deepspeed"](copy) == FILES["deepspeed"](plan)
    assert (copy.grid, copy.batch, copy.total_parameters) == (plan.grid, plan.batch, plan.total_parameters)


def started() -> Iterator[Any]:
    """Each run with our program, and with Megatron-LM's where it may; DeepSpeed is launched with ours alone."""
    for case in cases("megatron", "deepspeed"):
        (spec,) = case.values
        for entry in ("meshwright", "/opt/Megatron-LM/pretrain_gpt.py"):
            local = replace(spec, launch=Launch(entry=entry))
            if spec.cluster.gpus is not None and holds(local, spec.backend.name):
                yield pytest.param(local, id=f"{Path(entry).stem}-{case.id}", marks=case.marks)


@pytest.mark.parametrize("local", started())
def test_launch_scripts(local: Spec, tmp_path: Path) -> None:
    spec, plan = local, resolve(local)
    copy = again(written(plan, tmp_path) / "launch.sh", local)
    assert FILES[spec.backend.name](copy) == FILES[spec.backend.name](plan)
    assert (copy.grid.world, copy.batch, copy.stages) == (plan.grid.world, plan.batch, plan.stages)
    assert copy.steps == (plan.steps or UNSTATED_STEPS)


@pytest.mark.parametrize("spec", cases("megatron", "deepspeed"))
@pytest.mark.parametrize("tasks", ["node", "rank"])
def test_job_scripts(spec: Spec, tasks: Any, tmp_path: Path) -> None:
    job = replace(spec, launch=Launch(kind="slurm", slurm=replace(SLURM, tasks=tasks)))
    plan = resolve(job)
    source = imported([written(plan, tmp_path) / "job.sbatch"])
    (stage,) = described(source, [f"software={spec.software.name}"]).stages
    assert [remark for remark in source.remarks if remark.level == "error"] == []
    assert stage.cluster.gpus == plan.grid.world
    ours, theirs = asdict(job.launch.slurm), asdict(stage.launch.slurm)
    assert {name for name in ours if ours[name] != theirs[name]} <= {"job_name"}  # stated, where ours is the run's
    copy = again(tmp_path / "job.sbatch", job)
    assert FILES[spec.backend.name](copy) == FILES[spec.backend.name](plan)
