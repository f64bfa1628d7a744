"""Faults of every kind, on a real SLURM: the run ends by itself with the losses of one that nothing disturbed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builders import small_model, spec
from meshwright.layout.plan import Plan
from meshwright.rehearse.processes import warm
from meshwright.rehearse.shrink import miniature
from meshwright.resolver import override, resolve
from meshwright.spec import Evaluation
from meshwright.spec.launch import Watchdog
from meshwright.train.metrics import read
from meshwright.train.stages import saved_step
from slurm.cluster import Cluster
from slurm.real import here, losses, on_slurm, raw_steps, submit

pytest.importorskip("megatron.training")

STEPS, EVERY = 60, 10
NEXT = 30  # the checkpoint whose writing is disturbed
slow = pytest.mark.slow(reason="each fault costs two starts of Megatron; one of them is run always")


@dataclass
class Job:
    """A run of two nodes under way."""

    cluster: Cluster
    folder: Path
    number: str
    backend: str = "megatron"

    def until_step(self, step: int) -> None:
        self.cluster.until(lambda: (raw_steps(self.folder) or [0])[-1] >= step, 120, f"no step {step}:\n{self.logs}")

    def until(self, holds: Callable[[], bool], what: str) -> None:
        self.cluster.until(holds, 120, f"{what}:\n{self.logs}")

    @property
    def logs(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in self.log_files)

    @property
    def log_files(self) -> list[Path]:
        return [*self.folder.glob("*.log"), *self.folder.glob("logs/*")]

    @property
    def events(self) -> str:
        path = self.folder / "RESTARTS"
        return path.read_text() if path.exists() else ""

    @property
    def saved(self) -> int:
        """The step of the last whole checkpoint."""
        step = saved_step(self.folder / "checkpoints")
        assert step is not None
        return step

    @property
    def kept(self) -> list[str]:
        """The names of its checkpoints, whole or not."""
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir() if path.is_dir())

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / (f"iter_{step:07}" if self.backend == "megatron" else f"step{step}")

    def kill_a_rank(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Of the processes that train, the one whose parent is none of them."""
        trains = {int(path.name): _parent(path) for path in Path("/proc").glob("[0-9]*") if self._trains(path)}
        os.kill(max(process for process, parent in trains.items() if parent not in trains), number)

    def _trains(self, process: Path) -> bool:
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            return False
        program = f"meshwright.train.{self.backend}".encode()
        return words[1:4] == [b"-u", b"-m", program] and os.fsencode(self.folder) in words

    def disturb_a_checkpoint(self, disturb: Callable[[Path], object], file: str = "__0_0.distcp") -> Path:
        """Lay something in the way of one ``file`` of the checkpoint of step NEXT."""
        self.checkpoint(NEXT).mkdir(parents=True)
        path = self.checkpoint(NEXT) / file
        disturb(path)
        return path


def _full(path: Path) -> None:
    """A disk on which there is no room for this file."""
    path.symlink_to("/dev/full")


def _parent(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def plan(backend: str = "megatron") -> Plan:
    original = spec(small_model(), 8, global_batch=8, dp=8, zero=1)
    original = override(original, "backend.name", backend)
    mini = miniature(original, 2, STEPS)[0]
    logging = replace(mini.training.logging, save_interval=EVERY, keep_last=2)
    evaluation = Evaluation(interval=2 * EVERY, steps=1)
    return resolve(replace(mini, training=replace(mini.training, logging=logging, evaluation=evaluation)))


@dataclass(frozen=True)
class Unbroken:
    """The losses of a run that nothing disturbs, and those of its validations by step."""

    losses: list[float]
    validations: dict[int, float]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("unbroken")
    warm("meshwright.train.megatron", folder / "imports.log")
    return trained_here(plan(), folder)


def trained_here(plan: Plan, folder: Path) -> Unbroken:
    return Unbroken(here([plan], folder), validations(next(folder.glob("*/metrics.jsonl")).parent))


def validations(folder: Path) -> dict[int, float]:
    return {line["step"]: line["valid_loss"] for line in read(folder / "metrics.jsonl") if "valid_loss" in line}


@pytest.fixture
def job(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    return submitted(plan(), cluster, tmp_path)


def submitted(plan: Plan, cluster: Cluster, runs: Path) -> Job:
    folders, jobs = submit([on_slurm(plan, 2, watchdog=Watchdog(factor=10, seconds=5))], runs)
    return Job(cluster, folders[0], jobs[0], plan.spec.backend.name)


def ends_well(job: Job, unbroken: Unbroken, lost: int = EVERY) -> None:
    """Every loss is what it would have been, at most ``lost`` steps were trained twice, the last checkpoints stay."""
    assert job.cluster.wait(job.number, 180) == "COMPLETED", job.logs
    assert (job.folder / "DONE").exists()
    assert losses([job.folder]) == pytest.approx(unbroken.losses, abs=1e-6)
    assert len(unbroken.losses) == STEPS
    assert validations(job.folder) == pytest.approx(unbroken.validations, abs=1e-6)
    assert list(unbroken.validations) == [20, 40, 60]
    assert job.kept == [job.checkpoint(step).name for step in (STEPS - EVERY, STEPS)]
    twice = len(raw_steps(job.folder)) - STEPS
    assert 0 <= twice <= lost, f"{twice} steps were trained twice"


def test_a_killed_rank(job: Job, unbroken: Unbroken) -> None:
    job.until_step(25)
    job.kill_a_rank()
    ends_well(job, unbroken)
    assert job.events.count(" failed ") == 1


@slow
def test_a_rank_that_hangs(job: Job, unbroken: Unbroken) -> None:
    """It stands still, and the other waits for it in a collective: that one notices, and the job starts again."""
    job.until_step(25)
    job.kill_a_rank(signal.SIGSTOP)
    ends_well(job, unbroken)
    assert any("hangs: no step for" in path.read_text() for path in job.log_files)
    assert job.events.count(" failed ") == 1


@slow
def test_a_node_that_goes_down(job: Job, unbroken: Unbroken, cluster: Cluster) -> None:
    job.until_step(25)
    nodes = job.cluster.run("scontrol", "show", "hostnames", cluster.show(job.number)["NodeList"]).stdout.split()
    cluster.run("scontrol", "update", f"nodename={nodes[-1]}", "state=down", "reason=test")
    try:
        ends_well(job, unbroken)
        assert nodes[-1] not in job.events.splitlines()[-1]
    finally:
        cluster.run("scontrol", "update", f"nodename={nodes[-1]}", "state=resume")


@slow
def test_the_signal_before_the_time_limit_loses_no_step(job: Job, unbroken: Unbroken, cluster: Cluster) -> None:
    job.until_step(25)
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    ends_well(job, unbroken, lost=0)
    assert "stopped before the time limit" in job.events


@slow
def test_requeued_by_hand(job: Job, unbroken: Unbroken, cluster: Cluster) -> None:
    job.until_step(25)
    cluster.run("scontrol", "requeue", job.number)
    ends_well(job, unbroken)


@slow
def test_killed_while_it_writes_a_checkpoint(job: Job, unbroken: Unbroken) -> None:
    """A pipe that nobody reads holds the writer fast; the checkpoint before is the one that counts."""
    pipe = job.disturb_a_checkpoint(os.mkfifo)
    job.until_step(NEXT)
    job.until(lambda: len(list(job.checkpoint(NEXT).iterdir())) > 1, "no checkpoint is being written")
    assert job.saved == NEXT - EVERY
    job.kill_a_rank()
    pipe.unlink()
    ends_well(job, unbroken)
    assert job.saved == STEPS


@slow
def test_a_full_disk(job: Job, unbroken: Unbroken) -> None:
    """The checkpoint before is the one that counts, and the run goes on once there is room."""
    full = job.disturb_a_checkpoint(_full)
    job.until(lambda: " failed " in job.events, "it does not fail")
    assert any("No space left on device" in path.read_text() for path in job.log_files)
    assert job.saved == NEXT - EVERY
    full.unlink()
    ends_well(job, unbroken)


@slow
def test_three_weeks_in_miniature(job: Job, unbroken: Unbroken) -> None:
    """``test_a_killed_rank`` is its short form."""
    three_weeks(job, unbroken, job.disturb_a_checkpoint(_full))


@slow
def test_three_weeks_under_deepspeed(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same; what fills its disk is the file of the model's states."""
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    asked = plan("deepspeed")
    undisturbed = trained_here(asked, tmp_path / "unbroken")
    job = submitted(asked, cluster, tmp_path / "slurm")
    three_weeks(job, undisturbed, job.disturb_a_checkpoint(_full, "mp_rank_00_model_states.pt"))


def three_weeks(job: Job, unbroken: Unbroken, full: Path) -> None:
    """A time limit, a full disk and a hang, one after the other, in one run that keeps its last two checkpoints."""
    job.until_step(5)
    job.cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    job.until(lambda: "stopped before the time limit" in job.events, "it does not stop")
    job.until(lambda: " failed " in job.events, "the disk is not full")
    assert job.saved == NEXT - EVERY
    full.unlink()
    job.until_step(NEXT + 2)
    job.kill_a_rank(signal.SIGSTOP)
    ends_well(job, unbroken, lost=3 * EVERY)
    assert job.events.count(" failed ") == 2
    assert any("hangs: no step for" in path.read_text() for path in job.log_files)
