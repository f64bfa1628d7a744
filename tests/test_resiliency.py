"""``ft_launcher`` in torchrun's place: what is emitted, what Megatron calls, and a rank that fails within its job.

The extension is not installed here: its wheels need a newer glibc than many machines have. ``tests/nvrx`` stands in for
it with the words, names and signatures of nvidia-resiliency-ext 0.6.0; it restarts ranks and watches none.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builders import small_model, spec
from meshwright.emit import slurm, torchrun
from meshwright.errors import ConfigError
from meshwright.jobs.run_folder import files
from meshwright.resolver import override, refusals, resolve
from meshwright.spec import Spec
from meshwright.spec.launch import Resiliency, Slurm
from meshwright.train import resiliency
from meshwright.train.health import missing

HERE = Path(__file__).parent
ASKED = Resiliency(launcher="ft_launcher", restarts=2, step_seconds=60.0, learn_timeouts=True)
JOB = Slurm(time="1:00:00")


def asked(gpus: int = 2, slurm: Slurm | None = None) -> Spec:
    """On GPUs that have the extension."""
    base = spec(small_model(), gpus)
    has = replace(base.software, components={**base.software.components, "resiliency": "0.6.0"})
    launch = replace(base.launch, resiliency=ASKED)
    if slurm is not None:
        launch = replace(launch, kind="slurm", slurm=slurm)
    return replace(base, software=has, launch=launch)


def test_one_node_needs_no_rendezvous_and_megatron_is_told() -> None:
    said = torchrun.script(resolve(asked()))
    assert "-m nvidia_resiliency_ext.fault_tolerance.launcher --nnodes=1 \\\n    --standalone" in said
    assert '--nproc-per-node="$processes" --max-restarts=2 \\\n    --term-timeout=420' in said
    assert "--ft-rank-section-timeouts=setup:600,step:60,checkpointing:420 --ft-rank-out-of-section-timeout=300" in said
    assert '"$folder" --enable-ft-package --calc-ft-timeouts "$@"' in said
    assert "torch.distributed.run" not in said


def test_several_nodes_meet_at_the_first_which_alone_is_host() -> None:
    said = torchrun.script(resolve(asked(16)))
    assert 'export GROUP_RANK="$NODE_RANK"' in said
    assert '--rdzv-endpoint="$MASTER_ADDR:29500" --rdzv-conf="is_host=$((NODE_RANK == 0))" --rdzv-id="' in said


def test_the_job_takes_a_rank_that_ends_with_0_after_a_signal_for_stopped() -> None:
    said = slurm.script(resolve(asked(16, JOB)))
    assert '--rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT" --rdzv-conf="is_host=$((SLURM_NODEID == 0))"' in said
    assert '--rdzv-id="$SLURM_JOB_ID"' in said
    assert said.index('again "stopped before the time limit" 75') < said.index(">DONE")
    ours = override(asked(16, JOB), "launch.resiliency", Resiliency())
    plain = slurm.script(resolve(ours))
    assert plain.index(">DONE") < plain.index('again "stopped before the time limit" 75')


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("backend.name", "deepspeed", "is told by Megatron's loop where training is, and the backend is deepspeed"),
        ("training.logging.checkpoints", False, "starts ranks again from a checkpoint"),
        ("launch.resiliency.launcher", "torchrun", "is for ft_launcher, and torchrun is the launcher"),
        ("launch.resiliency.restarts", -1, "-1 is out of range"),
        ("launch.resiliency.step_seconds", 0.0, "0 is out of range"),
    ],
)
def test_what_it_cannot_do_is_refused_in_a_line(path: str, value: object, said: str) -> None:
    changed = override(asked(), path, value)
    problems = [str(problem) for problem in refusals(changed, changed.backend.name)]
    assert [said in problem for problem in problems] == [True]


def test_one_task_a_rank_leaves_it_nothing_to_start() -> None:
    with pytest.raises(ConfigError, match=r"ft_launcher runs once a node, and launch\.slurm\.tasks is rank"):
        resolve(asked(16, Slurm(tasks="rank")))


def test_nodes_are_asked_for_it_and_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = files(resolve(asked(16, JOB)))["job.sbatch"]
    assert "'module:nvidia_resiliency_ext>=0.6.0'" in job
    assert not list(missing(0, 0.0, 1, tmp_path, ["module:pytest>=1.0", "module:json>=9"]))
    (old,) = missing(0, 0.0, 1, tmp_path, ["module:pytest>=1000.2"])
    assert "the module pytest is" in old
    assert "1000.2 or newer needed" in old
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lacking.py").touch()
    (absent,) = missing(0, 0.0, 1, tmp_path, ["module:absent_module>=1.0"])
    assert "the module absent_module is not there" in absent


def test_a_rank_that_was_asked_to_end_does_not_look_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(resiliency.SOCKET, raising=False)
    assert resiliency.stopped() == os.EX_TEMPFAIL
    monkeypatch.setenv(resiliency.SOCKET, "/tmp/x.socket")
    assert resiliency.stopped() == 0


CALLS = """
import sys
from megatron.training import ft_integration as ft
ft.setup()
ft.on_checkpoint_loaded(is_local_chkpt=False)
for _ in range(20):
    ft.on_training_step_start(); ft.on_training_step_end()
ft.on_eval_step_start(); ft.on_eval_step_end()
ft.on_checkpointing_start(); ft.on_checkpointing_end(is_async_finalization=False)
ft.shutdown()
"""


def environment(**more: str) -> dict[str, str]:
    paths = (HERE / "nvrx", HERE.parent / "launcher")
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PATH": own, **more}


def test_megatrons_integration_calls_what_the_extension_has(tmp_path: Path) -> None:
    pytest.importorskip("megatron.training")
    plan = resolve(asked())
    line = [*shlex.split(files(plan)["megatron/args.txt"].replace("\n", " ")), "--save", str(tmp_path / "saved")]
    words = [*line, "--enable-ft-package", "--calc-ft-timeouts"]
    env = environment(RANK="0", FT_CALLS=str(tmp_path / "calls"))
    done = subprocess.run(
        [sys.executable, "-c", CALLS, *words], env=env, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[:2] == ["init_workload_monitoring 5", "start_section setup"]
    assert calls.count("start_section step") == 15  # the first five warm up
    assert calls.count("end_section checkpointing") == 1
    assert calls[-2:] == ["calculate ['setup', 'step', 'checkpointing'] True", "shutdown_workload_monitoring"]
    assert json.loads((tmp_path / "saved" / "ft_state.json").read_text()) == {"timeouts": {}}


FAILS_ONCE = """
import os, pathlib, sys
from meshwright.train import resiliency
folder = pathlib.Path(sys.argv[1])
assert sys.argv[2:] == ["--enable-ft-package", "--calc-ft-timeouts", "more"], sys.argv
resiliency.note_restart(folder)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
    sys.exit(3)
(folder / f"rank{os.environ['RANK']}").touch()
"""


def test_a_rank_that_fails_starts_again_within_the_job(tmp_path: Path) -> None:
    """Through launch.sh and a stand-in of the launcher; the program of ours stands in, too."""
    folder, program = tmp_path / "run", tmp_path / "modules" / "program.py"
    for name, text in files(resolve(asked())).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("meshwright.train.megatron", "program"))
    program.parent.mkdir()
    program.write_text(FAILS_ONCE)
    env = environment()
    env["PYTHONPATH"] += f"{os.pathsep}{program.parent}"
    done = subprocess.run(["bash", str(folder / "launch.sh"), "more"], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert (folder / "rank1").exists()
    (line,) = (folder / "RESTARTS").read_text().splitlines()
    assert line.endswith("here restarted within the job, for the 1. time")
