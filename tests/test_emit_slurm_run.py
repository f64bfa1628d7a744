"""job.sbatch run by bash, with stand-ins for SLURM's commands: signals, guards, the count of restarts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.emit.slurm import script
from meshwright.emit.slurm_text import RANK, TORCHRUN, TRAIN
from meshwright.resolver import resolve
from meshwright.spec import Launch
from meshwright.spec.identity import identity
from meshwright.spec.launch import Slurm

# Stands in for torchrun: one rank, whose failure is its own, and a helper, without which it cannot work (9).
PARENT = """
import os, subprocess, sys
with subprocess.Popen(["sleep", "60"]) as helper:
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    code = subprocess.run([sys.executable, *sys.argv[1:]], env=environment).returncode
    died = helper.poll() is not None
    helper.kill()
sys.exit(9 if died else 1 if code else 0)
"""
PROGRAM = """import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: (pathlib.Path('saved').touch(), sys.exit(75)))
pathlib.Path('ready').touch()
time.sleep(60)
"""


# A program and what it leaves in the folder for temporary files, as wandb does where it is killed.
LEAVES = "import sys, tempfile; tempfile.mkdtemp(); sys.exit(9)"
TASKS = {
    "node": (TORCHRUN.replace("@TORCHRUN@", f"{sys.executable} -c '{PARENT}' \"$@\""), 1),  # torchrun's own code
    "rank": (RANK.replace("@RANK@", f'{sys.executable} "$@"'), 75),
}


@pytest.mark.parametrize("tasks", TASKS)
def test_a_signal_to_the_task_alone_reaches_the_ranks(tasks: str, tmp_path: Path) -> None:
    """As under proctrack/cgroup, which signals the task and none of its children."""
    (tmp_path / "rank.py").write_text(PROGRAM)
    task, code = TASKS[tasks]
    process = subprocess.Popen(["bash", "-c", task, "task", "rank.py"], cwd=tmp_path)
    _until((tmp_path / "ready").exists)
    os.kill(process.pid, signal.SIGUSR1)
    assert process.wait(10) == code
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("task", [TORCHRUN, RANK])
def test_a_task_leaves_no_temporary_folder(task: str, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(LEAVES)
    command = re.sub("@[A-Z]+@", f"{sys.executable} leaves.py", task)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 9
    assert list(temporary.iterdir()) == []


def test_what_was_compiled_stays(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "USER": "me"}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    task = RANK.replace("@RANK@", 'echo "$TORCHINDUCTOR_CACHE_DIR"')
    done = subprocess.run(["bash", "-c", task], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}/torchinductor_me\n"


def test_a_signal_while_the_step_is_being_started_is_not_lost() -> None:
    """It finds the trap of the time before, which asks nobody."""
    before = "say() { echo \"$*\"; }\non_nodes() { sleep 5; }\nstopping=0\ntrap 'stopping=1' USR1\n"
    started = TRAIN.replace("@PROGRAM@", "program").replace("step=$!\n", "step=$!\nkill -USR1 $$\n")
    end = 'kill "$step"; trap "" USR1; kill $(jobs -p) 2>/dev/null'
    done = subprocess.run(["bash", "-c", f"{before}{started}{end}"], capture_output=True, text=True, check=False)
    assert done.stdout == "USR1: asking for a checkpoint\n"


def test_a_task_ends_with_the_code_of_torchrun(tmp_path: Path) -> None:
    task = TORCHRUN.replace("@TORCHRUN@", f"{sys.executable} -c 'import sys; sys.exit(9)'")
    assert subprocess.run(["bash", "-c", task], cwd=tmp_path, check=False).returncode == 9


@pytest.mark.parametrize("task", [TORCHRUN, RANK])
def test_a_terminated_task_terminates_what_it_runs(task: str, tmp_path: Path) -> None:
    command = re.sub("@[A-Z]+@", "bash -c 'touch ready; exec sleep 60'", task)
    process = subprocess.Popen(["bash", "-c", command], cwd=tmp_path)
    _until((tmp_path / "ready").exists)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM


def _until(holds: Any) -> None:
    limit = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.05)


QUIET = "sleep() { :; }\nscontrol() { echo n1; }\n"


def run(
    folder: Path, srun: str = "true", squeue: str = "true", slurm: dict[str, Any] | None = None, **said: str
) -> str:
    """What the job in ``folder`` says; ``srun`` and ``squeue`` are commands in place of SLURM's."""
    options = Slurm(**{"health_check": False, **(slurm or {})})
    plan = resolve(replace(spec(small_model(), 8), launch=Launch(kind="slurm", slurm=options)))
    fakes = f"{QUIET}srun() {{ {srun}; }}\nsqueue() {{ {squeue}; }}\nset -euo pipefail\n"
    (folder / "job").write_text(script(plan).replace("exec srun", "srun").replace("set -euo pipefail\n", fakes))
    (folder / ".meshwright").write_text(identity(plan.spec))
    environment = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "7", **said}
    environment |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(["bash", "job"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}code {done.returncode}"


@pytest.mark.parametrize(
    ("squeue", "said"),
    [
        ("echo 'job 5'", "refused: job 5 already works in"),
        ("true", "code 0"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; return 1", "code 0"),
        ("echo 'Unable to contact slurm controller' >&2; return 1", "refused: squeue cannot say whether job 5 still"),
    ],
)
def test_a_folder_is_free_only_where_squeue_says_so(squeue: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "JOB").write_text("5\n")
    assert said in run(tmp_path, squeue=squeue)


def test_time_slices_have_the_folder_together(tmp_path: Path) -> None:
    (tmp_path / "JOB").write_text("6\n")  # as launch submitted them
    slices = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "0"}
    array = {"array": "0-9%1", "requeue": False}
    assert "code 9" in run(tmp_path, "return 9", "echo 'job 6_1'", array, **slices)
    assert "code 0" in run(tmp_path, "true", "echo 'job 6_1'", array, **{**slices, "SLURM_ARRAY_TASK_ID": "1"})
    assert (tmp_path / "JOB").read_text() == "6\n"


def test_restarts_are_counted_anew_after_a_checkpoint_and_a_submission(tmp_path: Path) -> None:
    limited = {"max_restarts": 1}
    assert "failed at step 0: code 9, restart 1 of 1" in run(tmp_path, "return 9", slurm=limited)
    assert "failed at step 0: code 9, after 1 restarts" in run(tmp_path, "return 9", slurm=limited)
    assert "restart 1 of 1" in run(tmp_path, "return 9", slurm=limited, SLURM_JOB_ID="8")
    (tmp_path / "checkpoints" / "latest").write_text("step20")
    assert "failed at step 20: code 9, restart 1 of 1" in run(tmp_path, "return 9", slurm=limited, SLURM_JOB_ID="8")


def test_an_unfit_node_ends_a_first_start_and_delays_a_restart(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "7-health.log").write_text("unfit n1: 7 GPUs visible, 8 needed\n")
    checked = {"health_check": True}
    first, again = (run(tmp_path, "return 1", slurm=checked, SLURM_RESTART_COUNT=count) for count in ("0", "1"))
    assert "refused: a node is not fit" in first
    assert first.endswith("code 2")
    assert "failed at step 0: a node is not fit (see above), restart 1 of 10" in again


def test_the_tasks_get_the_whole_environment_and_follow_the_nodes(tmp_path: Path) -> None:
    run(tmp_path, 'echo "$@" >srun.txt')
    assert (tmp_path / "srun.txt").read_text().startswith("--export=ALL --distribution=block ")
