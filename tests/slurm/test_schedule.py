"""slurmctld itself accepts the script of every recipe at its true size, and reads from it what the plan says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import llama_405b, small_model, spec
from meshwright.emit.slurm import script
from meshwright.layout.plan import Plan
from meshwright.library import files as library
from meshwright.resolver import resolve
from meshwright.spec import Launch, Spec
from meshwright.spec.launch import Slurm
from proofs import note
from samples import sample
from slurm.cluster import PAPER, Cluster


def planned(base: Spec, **options: Any) -> Plan:
    options = {"partition": PAPER[base.cluster.gpus_per_node][0], **options}
    return resolve(replace(base, launch=Launch(kind="slurm", slurm=Slurm(**options))))


def asked(cluster: Cluster, folder: Path, text: str) -> tuple[bool, str]:
    """What ``sbatch --test-only`` says."""
    (folder / "job.sbatch").write_text(text)
    done = cluster.run("sbatch", "--test-only", "job.sbatch", cwd=folder)
    return done.returncode == 0, done.stderr


def read(cluster: Cluster, folder: Path, plan: Plan) -> dict[str, str]:
    """The fields of the job, held back, as slurmctld understood them."""
    (folder / "job.sbatch").write_text(script(plan))
    job = cluster.submit(folder, "--hold")
    fields = cluster.show(job)
    cluster.run("scancel", job)
    return fields


SAMPLED = sample(library.names(), 10)
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in library.names() if name not in SAMPLED]


@pytest.mark.parametrize("name", [*SAMPLED, *SLOW])
def test_every_recipe_is_scheduled_at_its_true_size(
    name: str, cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for base in library.run(name).stages:
        plan = planned(base, time="1-00:00:00", tasks="node" if len(name) % 2 else "rank")
        accepted, said = asked(cluster, tmp_path, script(plan))
        assert accepted, said
        fields, gpus = read(cluster, tmp_path, plan), min(plan.grid.world, plan.grid.gpus_per_node)
        assert fields["NumNodes"].split("-")[0] == str(plan.grid.nodes)
        assert fields["NumTasks"] == str(plan.grid.nodes if len(name) % 2 else plan.grid.world)
        assert fields["TresPerNode"] == f"gres:gpu:{gpus}"
        assert (fields["TimeLimit"], fields["Requeue"], fields["OverSubscribe"]) == ("1-00:00:00", "1", "NO")
    if request.config.getoption("--regenerate"):
        note(name, "scheduled", ["S"])


OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"mem": "512G"}, "MinMemoryNode", "512G"),
    ({"cpus_per_task": 16, "tasks": "rank"}, "CPUs/Task", "16"),
    ({"gpus": "gres", "gpu_type": "h100"}, "TresPerNode", "gres:gpu:h100:8"),
    ({"gpus": "none"}, "TresPerNode", ""),
    ({"constraint": "h100"}, "Features", "h100"),
    ({"account": "llm"}, "Account", "llm"),
    ({"qos": "high"}, "QOS", "(null)"),  # without a database there are no qualities of service
    ({"exclude": "gpu[0001-0004]"}, "ExcNodeList", "gpu[0001-0004]"),
    ({"requeue": False}, "Requeue", "0"),
    ({"exclusive": False, "cpus_per_task": 8}, "OverSubscribe", "OK"),
    ({"dependency": "singleton"}, "Dependency", "singleton(unfulfilled)"),
    ({"job_name": "mine"}, "JobName", "mine"),
    ({"comment": "$(id) it's"}, "Comment", "$(id)"),
    ({"switches": "64@01:00:00"}, "WaitForSwitch", ""),
    ({"array": "0-9%1", "requeue": False}, "ArrayTaskThrottle", "1"),
    ({"extra": ("--nice=100",)}, "Nice", "100"),
]


@pytest.mark.parametrize(("options", "field", "value"), OPTIONS)
def test_an_option_arrives(options: dict[str, Any], field: str, value: str, cluster: Cluster, tmp_path: Path) -> None:
    fields = read(cluster, tmp_path, planned(spec(small_model(), 64), **options))
    assert fields.get(field, "") == value


WHOLE_CLUSTER = spec(small_model(), 2048, global_batch=2048)


def test_what_the_cluster_has_is_accepted(cluster: Cluster, tmp_path: Path) -> None:
    assert asked(cluster, tmp_path, script(planned(WHOLE_CLUSTER)))[0]


@pytest.mark.parametrize(
    "options",
    [
        {"gpu_type": "a100"},
        {"constraint": "b200"},
        {"mem": "9T"},
        {"cpus_per_task": 1024},
        {"time": "8-00:00:00"},
        {"partition": "nobody"},
        {"reservation": "nobody"},
        {"switches": "7"},  # 256 nodes stand below 8 switches
        {"extra": ("--no-such-option",)},
    ],
)
def test_what_the_cluster_lacks_is_refused(options: dict[str, Any], cluster: Cluster, tmp_path: Path) -> None:
    assert not asked(cluster, tmp_path, script(planned(WHOLE_CLUSTER, **options)))[0]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("--nodes=2048", "--nodes=2049"),  # one node too many
        ("--gpus-per-node=8", "--gpus-per-node=9"),
        ("--ntasks-per-node=1", "--ntasks-per-node=1024"),  # more tasks than CPUs
    ],
)
def test_a_script_that_asks_for_too_much_is_refused(right: str, wrong: str, cluster: Cluster, tmp_path: Path) -> None:
    text = script(planned(llama_405b()))
    assert asked(cluster, tmp_path, text)[0]
    assert not asked(cluster, tmp_path, text.replace(right, wrong))[0]


HOSTILE = ["$(touch pwned)", "`touch pwned`", "'; touch pwned; '", '"; touch pwned; "', "-x", "é ü", "a # b", "a\\ b"]


@pytest.mark.parametrize("value", HOSTILE)
def test_sbatch_reads_hostile_values_as_values(value: str, cluster: Cluster, tmp_path: Path) -> None:
    name = value.replace("\\", "")  # a job name holds no slashes
    plan = planned(spec(small_model(), 8), comment=value, job_name=name, partition="test")
    (tmp_path / "job.sbatch").write_text(script(plan))
    job = cluster.submit(tmp_path, "--hold")
    shown = cluster.run("scontrol", "show", "job", "--oneliner", job).stdout
    cluster.run("scancel", job)
    assert f"JobName={name} UserId=" in shown
    assert f"Comment={value} " in shown
