"""``meshwright launch`` on a real SLURM: submitted once, chained, tried out, swept; a stub stands in for training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.cli import main
from slurm.cluster import Cluster

# Stands in for Python: as torchrun with a program that trains. It fails as long as FAIL exists beside its run folder,
# and waits for a signal as long as WAIT does.
STUB = f"""#!{sys.executable} -IS
import os, signal, sys, time
folder = next(word for word in sys.argv if os.path.exists(os.path.join(word, "plan.json")))
beside = lambda name: os.path.exists(os.path.join(folder, os.pardir, name))
touch = lambda name: open(os.path.join(folder, name), "a").close()
def stop(*_):
    touch("saved")
    sys.exit(1)
signal.signal(signal.SIGUSR1, stop)
node = os.environ["SLURM_NODEID"]
with open(os.path.join(folder, "stub.log"), "a") as log:
    print(f"node {{node}} of {{os.environ['SLURM_NNODES']}}, master {{os.environ['MASTER_ADDR']}}", file=log)
if node == "0" and beside("FAIL"):
    sys.exit(9)
for _ in range(600 if beside("WAIT") else 0):
    time.sleep(0.1)
"""
RECIPE = """# @package _global_
defaults:
  - override /model: tiny
  - override /cluster: local_cpu
name: three
training: {steps: 2, sequence: 64, global_batch: 8}
cluster: {gpus: 2, gpus_per_node: 1}
stages:
  first: {}
  second: {parallelism: {cp: 2, cp_comm: all_gather}}
  third: {}
"""
Launch = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def runs(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "python").write_text(STUB)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / "recipe" / "three.yaml").write_text(RECIPE)
    yield tmp_path
    cluster.run("scancel", "--state=RUNNING,PENDING", "--name=tiny,three-first,three-second,three-third")


@pytest.fixture
def launch(cluster: Cluster, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Launch:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)

    def launched(*words: str) -> tuple[int, dict[str, Any]]:
        common = [f"launch.python={runs / 'python'}", f"runs={runs}", "launch.slurm.gpus=none", "verify=false"]
        quick = ["launch=slurm", "launch.slurm.health_check=false", "launch.slurm.time='5'"]
        quick += ["launch.slurm.signal_seconds=60", "launch.slurm.mem=2G"]
        code = main(["launch", *quick, *common, *words, "output=json"])
        return code, json.loads(capsys.readouterr().out)

    return launched


TINY = ("model=tiny", "cluster=local_cpu", "cluster.gpus=2", "cluster.gpus_per_node=1", "training.steps=2")
SMALL = (*TINY, "training.sequence=64", "training.global_batch=8")


def three(runs: Path, *words: str) -> tuple[str, ...]:
    return ("recipe=three", f"--config-dir={runs / 'conf'}", *words)


def test_a_run_is_submitted_and_ends_with_a_marker(launch: Launch, cluster: Cluster) -> None:
    code, document = launch(*SMALL)
    assert code == 0, document
    (one,) = document["launched"]
    folder = Path(one["folder"])
    assert cluster.wait(one["job"], 60) == "COMPLETED"
    assert (folder / "DONE").exists()
    lines = sorted((folder / "stub.log").read_text().splitlines())
    assert lines == ["node 0 of 2, master n1", "node 1 of 2, master n1"]


def test_the_same_folder_is_not_submitted_twice(launch: Launch, cluster: Cluster, runs: Path) -> None:
    _, first = launch(*SMALL, "launch.slurm.dependency=singleton", "launch.slurm.extra=[--hold]")
    job = first["launched"][0]["job"]
    code, second = launch(*SMALL, "launch.slurm.dependency=singleton", "launch.slurm.extra=[--hold]")
    assert code == 2
    (problem,) = second["problems"]
    assert f"job {job} is PENDING" in problem["message"]
    assert "a second job would overwrite its checkpoints" in problem["message"]
    cluster.run("scancel", job)
    cluster.wait(job, 30)
    code, third = launch(*SMALL, "launch.slurm.dependency=singleton", "launch.slurm.extra=[--hold]")
    assert code == 0  # the first one is gone
    cluster.run("scancel", third["launched"][0]["job"])


def test_a_second_job_by_hand_is_refused_by_the_script(launch: Launch, cluster: Cluster, runs: Path) -> None:
    (runs / "WAIT").touch()
    _, document = launch(*SMALL)
    one = document["launched"][0]
    folder = Path(one["folder"])
    cluster.until(lambda: (folder / "RESTARTS").exists(), 30, "the job does not start")
    second = cluster.submit(folder)
    assert cluster.wait(second, 60) == "FAILED"
    assert f"refused: job {one['job']} already works in" in (folder / f"job-{second}.log").read_text()
    cluster.run("scancel", one["job"])


def test_what_is_done_is_not_done_again(launch: Launch, cluster: Cluster) -> None:
    _, document = launch(*SMALL, "training.seed=7")
    one = document["launched"][0]
    cluster.wait(one["job"], 60)
    code, document = launch(*SMALL, "training.seed=7")
    (again,) = document["launched"]
    assert (code, again["command"], again["job"]) == (0, [], None)
    assert "finished before" in again["said"]
    again = cluster.submit(Path(one["folder"]))
    assert cluster.wait(again, 60) == "COMPLETED"
    assert "finished before" in (Path(one["folder"]) / f"job-{again}.log").read_text()


def test_a_dry_run_and_a_test_submit_nothing(launch: Launch, cluster: Cluster) -> None:
    code, document = launch(*SMALL, "launch.dry_run=true")
    assert code == 0
    assert document["launched"][0]["command"] == ["sbatch", "job.sbatch"]
    code, document = launch(*SMALL, "launch.test_only=true")
    assert code == 0
    assert "to start at" in document["launched"][0]["said"]
    code, document = launch(*SMALL, "launch.test_only=true", "cluster.gpus=5", "training.global_batch=10")
    assert code == 1
    assert "Node count specification invalid" in document["launched"][0]["said"]
    assert cluster.run("squeue", "--noheader", "--name=tiny").stdout == ""


def test_stages_become_a_chain(launch: Launch, cluster: Cluster, runs: Path) -> None:
    code, document = launch(*three(runs))
    assert code == 0, document
    jobs = [one["job"] for one in document["launched"]]
    assert [one["command"][1:-1] for one in document["launched"]] == [
        [],
        [f"--dependency=afterok:{jobs[0]}", "--kill-on-invalid-dep=yes"],
        [f"--dependency=afterok:{jobs[1]}", "--kill-on-invalid-dep=yes"],
    ]
    assert [cluster.wait(job, 90) for job in jobs] == ["COMPLETED"] * 3
    assert document["transitions"][0]["lines"][1] == "layout: cp 1 -> 2, dp 2 -> 1"


def test_a_stage_that_fails_takes_the_rest_out_of_the_queue(launch: Launch, cluster: Cluster, runs: Path) -> None:
    (runs / "three").mkdir()
    (runs / "three" / "FAIL").touch()
    _, document = launch(*three(runs, "launch.slurm.max_restarts=1"))
    jobs = [one["job"] for one in document["launched"]]
    assert cluster.wait(jobs[0], 90) == "FAILED"
    assert [cluster.wait(job, 60) for job in jobs[1:]] == ["CANCELLED"] * 2
    events = (Path(document["launched"][0]["folder"]) / "RESTARTS").read_text()
    assert events.count(" start ") == 2  # one restart, as allowed
    assert events.count(" failed ") == 1


def test_a_signal_saves_requeues_and_goes_on(launch: Launch, cluster: Cluster, runs: Path) -> None:
    (runs / "WAIT").touch()
    _, document = launch(*SMALL, "training.seed=9", "launch.slurm.max_restarts=0")
    one = document["launched"][0]
    folder = Path(one["folder"])
    cluster.until(lambda: (folder / "stub.log").exists(), 30, "the job does not start")
    (runs / "WAIT").unlink()
    cluster.run("scancel", "--batch", "--signal=USR1", one["job"])
    assert cluster.wait(one["job"], 90) == "COMPLETED"  # restarts at the limit are not counted
    assert (folder / "saved").exists()
    assert (folder / "DONE").exists()
    assert cluster.show(one["job"])["Restarts"] == "1"


def test_time_slices_follow_one_another(launch: Launch, cluster: Cluster, runs: Path) -> None:
    (runs / "FAIL").touch()
    sliced = ("launch.slurm.array=0-1%1", "launch.slurm.requeue=false")
    _, document = launch(*SMALL, "training.seed=11", *sliced)
    one = document["launched"][0]
    folder, events = Path(one["folder"]), Path(one["folder"]) / "RESTARTS"
    cluster.until(lambda: events.exists() and " failed " in events.read_text(), 60, "the first slice does not fail")
    (runs / "FAIL").unlink()
    cluster.until((folder / "DONE").exists, 60, "the second slice does not go on")


def test_a_sweep_is_one_array(launch: Launch, cluster: Cluster, runs: Path) -> None:
    assert launch(*SMALL, "training.optimizer.lr=1e-3,2e-3,3e-3", "launch.slurm.throttle=2", "-m")[0] == 0
    (array,) = runs.glob("sweep-*/array.sbatch")
    assert "#SBATCH --array=0-2%2\n" in array.read_text()
    folders = sorted(runs.glob("tiny-*"))
    assert len(folders) == 3
    cluster.until(lambda: all((folder / "DONE").exists() for folder in folders), 90, "the sweep does not end")


def test_a_sweep_over_stages_follows_task_by_task(launch: Launch, runs: Path, cluster: Cluster) -> None:
    code, document = launch(*three(runs, "training.seed=1,2", "-m"))
    assert code == 0
    commands = {tuple(one["command"]) for one in document["launched"]}
    assert len(commands) == 3
    assert sum("--dependency=aftercorr:" in " ".join(command) for command in commands) == 2
    folders = [Path(one["folder"]) for one in document["launched"]]
    cluster.until(lambda: all((folder / "DONE").exists() for folder in folders), 120, "the sweep does not end")


def test_points_of_other_sizes_are_arrays_of_their_own(launch: Launch, runs: Path) -> None:
    assert launch(*SMALL, "cluster.gpus=1,2", "training.seed=3", "-m")[0] == 0
    assert len(list(runs.glob("sweep-*/array.sbatch"))) == 2
