"""What a node's own memory holds of any run: ranks, data workers, copies while saving; said, refused, checked there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cli import main
from meshwright.cost import cost
from meshwright.cost.memory import GIB
from meshwright.cost.offload import Host
from meshwright.errors import ConfigError
from meshwright.jobs.launch import links
from meshwright.jobs.run_folder import files
from meshwright.loading import load
from meshwright.resolver import override, resolve
from meshwright.spec import Launch, Spec
from meshwright.spec.launch import Slurm
from meshwright.train.health import memory_gib, missing

LLAMA = ["model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "training.global_batch=16", "training.steps=10"]


def host(*words: str) -> Host:
    return cost(resolve(load([*LLAMA, *words]).stages[0])).host


def test_a_rank_copies_its_share_of_a_checkpoint_before_it_writes() -> None:
    """14 bytes a parameter on this one node, pinned, training may go on meanwhile; an eighth on each of 8."""
    found = host("parallelism=zero1")
    assert found.saving == found.pinned == 14 * 8_030_261_248
    assert host("parallelism=zero1", "training.logging.async_save=true") == found
    assert host("parallelism=zero1", "cluster.gpus=64", "training.global_batch=64").saving == found.saving / 8
    assert host("parallelism=zero1", "training.logging.checkpoints=false").saving == 0


def test_deepspeed_copies_one_storage_after_the_other() -> None:
    """The fp32 weights, and below stage 3 those in 16 bit, all of them on the first rank."""
    assert host("backend=deepspeed", "parallelism=zero3").saving == 4 * 8_030_261_248
    assert host("backend=deepspeed", "parallelism=zero2").saving == (4 + 2) * 8_030_261_248
    wide = ["cluster.gpus=64", "training.global_batch=64", "backend=deepspeed"]
    assert host(*wide, "parallelism=zero2").saving == (4 / 8 + 2) * 8_030_261_248


def test_data_workers_belong_to_the_first_tensor_parallel_ranks() -> None:
    alone, pairs, none = (host(*w) for w in ((), ("parallelism.tp=2",), ("training.data.workers=0",)))
    assert alone.workers == 2 * pairs.workers > 0
    assert none.workers == host("backend=deepspeed", "parallelism=zero3").workers == 0


def test_ranks_take_more_beside_a_gpu() -> None:
    gpu = spec(small_model(), 8, global_batch=8)
    cpu = replace(gpu, cluster=replace(gpu.cluster, accelerator=replace(gpu.cluster.accelerator, platform="cpu")))
    assert cost(resolve(gpu)).host.ranks == 8 * 3 * GIB
    assert cost(resolve(cpu)).host.ranks == 8 * 0.6 * GIB


def test_plan_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *LLAMA, "parallelism=zero1"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  host"))
    assert "131.9 GiB of 2,048 a node: ranks 24.0, data workers 3.2, copies while saving 104.7; 104.7 pinned" in line


def test_a_node_that_cannot_hold_them_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"must hold 132 GiB \(24 of ranks, 3 of data workers, 105 of copies while sa"
    ):
        resolve(load([*LLAMA, "parallelism=zero1", "cluster.host_memory_gib=100"]).stages[0])


def test_a_job_that_asks_for_less_is_refused(tmp_path: Path) -> None:
    def asks(mem: str, **launch: Any) -> Spec:
        base = override(spec(small_model(), 8, global_batch=8), "training.steps", 10)
        return replace(base, launch=Launch(kind="slurm", slurm=Slurm(mem=mem), **launch))

    with pytest.raises(ConfigError, match=r"launch.slurm.mem: '20G' is 20.00 GiB a node, and the run takes 27.2"):
        links([asks("20G")], tmp_path)
    for enough in (asks("28G"), asks("0"), asks("20G", force=True)):
        assert links([enough], tmp_path).plans


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The files by which a node of 8 GiB says so."""
    for name, text in {
        "proc/meminfo": "MemTotal:  8388608 kB\n",
        "proc/self/cgroup": "0::/slurm/job_1/step_0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_node_is_asked_for_what_the_job_may_use(node: Path) -> None:
    assert memory_gib(node) == 8
    group = node / "sys/fs/cgroup/slurm/job_1"
    (group / "step_0").mkdir(parents=True)
    (group / "step_0" / "memory.max").write_text("max\n")
    (group / "memory.max").write_text(f"{2 * 2**30}\n")
    assert memory_gib(node) == 2


def test_health_names_a_node_with_too_little(tmp_path: Path) -> None:
    assert list(missing(0, 0.0, 1, tmp_path, ["memory:0.1"])) == []
    (lack,) = missing(0, 0.0, 1, tmp_path, ["memory:1000000"])
    assert lack.endswith("GiB of memory for this job, 1000000 needed")


def test_the_job_asks_for_what_the_plan_says() -> None:
    plan = resolve(replace(spec(small_model(), 8, global_batch=8), launch=Launch(kind="slurm")))
    assert f" memory:{cost(plan).host.memory / GIB:.1f}" in files(plan)["job.sbatch"]
