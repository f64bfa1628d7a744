"""Jobs on a real SLURM that really train: over two nodes as on one machine, and stages as a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.layout.plan import Plan
from meshwright.library import files as library
from meshwright.rehearse.run import prepare
from meshwright.rehearse.shrink import miniature
from meshwright.resolver import override, resolve
from slurm.cluster import Cluster
from slurm.real import here, losses, on_slurm, submit
from stages import STEPS, staged, whole

pytest.importorskip("megatron.training")


@pytest.fixture(autouse=True)
def commands(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch and squeue of this process speak to the test's cluster."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])


def ended(cluster: Cluster, jobs: Sequence[str], folders: Sequence[Path]) -> None:
    for job, folder in zip(jobs, folders, strict=True):
        assert cluster.wait(job, 300) == "COMPLETED", logs(folder)
        assert (folder / "DONE").exists()


def logs(folder: Path) -> str:
    return "\n".join(
        f"{path.name}: {path.read_text()[-1500:]}" for path in [*folder.glob("*.log"), *folder.glob("logs/*")]
    )


def with_weights(plan: Plan, words: Sequence[str]) -> Plan:
    """Starting from saved weights, so that every layout starts from the same ones."""
    return resolve(override(plan.spec, "backend.megatron.extra", tuple(words)))


@pytest.mark.parametrize(
    "ranks", [2, pytest.param(4, marks=pytest.mark.slow(reason="two more starts of Megatron: a chain below has tp"))]
)
def test_two_nodes_train_llama_405b_in_miniature_as_this_machine_does(
    ranks: int, cluster: Cluster, tmp_path: Path
) -> None:
    """pp 2, vpp 2, uneven stages, a node a pipeline stage, of four ranks tp 2 and sp; the nodes are checked first."""
    (original,) = (s for s in library.run("llama3_405b").stages if s.stage == "gpus_16384")
    scene = prepare(miniature(original, ranks, 6)[:1], tmp_path)
    assert (scene.plans[0].grid.pp, scene.plans[0].grid.world) == (2, ranks)
    plan, one = (with_weights(plan, scene.words[:2]) for plan in (*scene.plans, scene.alone))
    folders, jobs = submit([on_slurm(plan, 2, health_check=True, checkpoint_disk_gib=0.001)], tmp_path / "slurm")
    expected = here([plan], tmp_path / "here")
    ended(cluster, jobs, folders)
    assert len(expected) == 6
    assert losses(folders) == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(here([one], tmp_path / "alone"), abs=1e-4)


TENSOR = {"tp": 2, "sp": True, "zero": 1}
CHAINS = {
    "a node, then two": [{**TENSOR, "dp": 1}, {"cp": 2, "zero": 1, "dp": 1}],
    "a node, then two, then two": [{**TENSOR, "dp": 1}, {**TENSOR, "dp": 2}, {**TENSOR, "cp": 2, "dp": 1}],
}
NODES = (1, 2, 2)
LONG = pytest.mark.slow(reason="ten starts of Megatron instead of four; of its joints the short chain has one")


@pytest.mark.parametrize("chain", [name if i == 0 else pytest.param(name, marks=LONG) for i, name in enumerate(CHAINS)])
def test_the_stages_of_llama_405b_are_a_chain(chain: str, cluster: Cluster, tmp_path: Path) -> None:
    """Its nodes double, and cp takes the place of dp, as between 8,192 GPUs, 16,384 and the long context."""
    (original,) = (s for s in library.run("llama3_405b").stages if s.stage == "gpus_8192")
    plans = staged(original, tmp_path / "text", CHAINS[chain])
    scene = prepare([plan.spec for plan in plans[:1]], tmp_path)
    plans = [with_weights(plan, scene.words[:2]) for plan in plans]
    jobs_of = [on_slurm(plan, nodes) for plan, nodes in zip(plans, NODES, strict=False)]
    folders, jobs = submit(jobs_of, tmp_path / "slurm")
    expected = here([whole(plans)], tmp_path / "alone")
    ended(cluster, jobs, folders)
    assert len(expected) == len(plans) * STEPS
    assert losses(folders) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow  # of Llama's chain and test_train_stages: what DeepSpeed adds to the one is in the other
def test_stages_of_a_deepspeed_recipe_are_a_chain(cluster: Cluster, tmp_path: Path) -> None:
    """OLMo 7B's ZeRO 3: dp 1, 2, 1 by way of universal checkpoints, one task of SLURM a rank."""
    pytest.importorskip("deepspeed")
    (original,) = library.run("olmo_7b").stages
    original = replace(original, backend=replace(original.backend, name="deepspeed"))
    plans = staged(original, tmp_path / "text", [{"dp": dp, "zero": 3} for dp in (1, 2, 1)])
    prepare([plan.spec for plan in plans[:1]], tmp_path)
    jobs_of = [on_slurm(plan, plan.grid.world, tasks="rank") for plan in plans]
    folders, jobs = submit(jobs_of, tmp_path / "slurm")
    expected = here([whole(plans)], tmp_path / "alone")
    ended(cluster, jobs, folders)
    assert len(expected) == 3 * STEPS
    assert losses(folders) == pytest.approx(expected, abs=1e-4)
