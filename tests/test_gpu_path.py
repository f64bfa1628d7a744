"""The way a launch goes on a GPU, as far as a CPU can follow it: nothing that it needs is left to the CPU's shim."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import meshwright
from builders import small_model, spec
from meshwright.emit.megatron import flags
from meshwright.jobs.doctor import findings
from meshwright.jobs.run_folder import files
from meshwright.loading import load
from meshwright.resolver import refusals, resolve
from meshwright.rules.requirements import needed
from meshwright.spec import Spec
from meshwright.train.health import missing

H100 = ["model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "training.steps=10"]


def run(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(meshwright.__file__).parents[1]), environment.pop("path", "")])
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)


COMPILE = """
import torch, torch.distributed as dist
from types import SimpleNamespace
from megatron.training import initialize
initialize.get_args = lambda: SimpleNamespace()
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
INSTALL
initialize._compile_dependencies()
import numpy as np
from megatron.core.datasets import helpers_cpp
index = helpers_cpp.build_sample_idx_int32(np.array([5, 7], np.int32), np.array([0, 1], np.int32), 4, 1, 12, False, 1)
print("built", index.shape)
"""


SHIM = """
from megatron.core.datasets import utils; theirs = utils.compile_helpers
from meshwright.train import cpu; cpu.install()
assert utils.compile_helpers is theirs
"""
LINE = """
import json, sys; from pathlib import Path; from meshwright.train.megatron import command_line
print(json.dumps(command_line(Path(sys.argv[1]))))
"""
FORKS = """
import json, os, signal, sys
from megatron.training import initialize
done = {}
for name, (code, word) in json.loads(sys.argv[1]).items():
    sys.stdout.flush()
    if (fork := os.fork()) == 0:
        os.setsid()  # what it starts ends with it: torch's compilers wait for more where nobody ends them
        said = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1), os.dup2(said, 2)
        sys.argv = ["-c", word]
        exec(code, {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    done[name] = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    try:
        os.killpg(fork, signal.SIGKILL)
    except ProcessLookupError:
        pass
print(json.dumps(done))
"""
"""Runs programs as forks of one process that has imported Megatron, which takes longer than all of them."""


@dataclass(frozen=True)
class Done:
    returncode: int
    said: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """What programs of Megatron's have said, by name."""
    pytest.importorskip("megatron.training")
    folder = tmp_path_factory.mktemp("done")
    programs = {
        "helpers": (COMPILE.replace("INSTALL", "from meshwright.train import wheel; wheel.install()"), ""),
        "wheel alone": (COMPILE.replace("INSTALL", ""), ""),
        "shim": (SHIM, ""),
        **{
            f"checkpoints {wanted}": (LINE, _with_checkpoints(wanted, folder / str(wanted))) for wanted in (True, False)
        },
    }
    named = {str(folder / name): program for name, program in programs.items()}
    forked = run(FORKS, json.dumps(named))
    assert forked.returncode == 0, forked.stderr
    codes = json.loads(forked.stdout.splitlines()[-1])
    return {name: Done(codes[str(folder / name)], (folder / name).read_text()) for name in programs}


def _with_checkpoints(wanted: bool, folder: Path) -> str:
    base = spec(small_model(), 8)
    logging = replace(base.training.logging, checkpoints=wanted)
    return str(_written(replace(base, training=replace(base.training, logging=logging)), folder))


def test_megatrons_start_finds_the_helpers_of_the_wheel(done: dict[str, Done]) -> None:
    assert "built" in done["helpers"].said
    assert "make:" not in done["helpers"].said


def test_the_wheel_alone_ends_megatrons_start(done: dict[str, Done]) -> None:
    """What ``train.wheel`` is for; where this fails, the wheel has its Makefile and the module can go."""
    assert done["wheel alone"].returncode == 1
    assert "built" not in done["wheel alone"].said


def test_the_shim_of_the_cpu_leaves_to_the_wheel_what_is_the_wheels(done: dict[str, Done]) -> None:
    assert done["shim"].returncode == 0, done["shim"].said


def test_transformer_engine_without_a_gpu_is_not_chosen(tmp_path: Path) -> None:
    """In a container on a login node it imports, and its optimizer fails in the first kernel."""
    pytest.importorskip("megatron.training")
    optimizers = tmp_path / "transformer_engine" / "pytorch" / "optimizers"
    optimizers.mkdir(parents=True)
    for folder in (optimizers, optimizers.parent, optimizers.parent.parent):
        (folder / "__init__.py").write_text("")
    (optimizers / "__init__.py").write_text(
        "class FusedAdam:\n    def __init__(self, *_):\n        raise RuntimeError('cudaErrorInsufficientDriver')\n"
        "FusedSGD = multi_tensor_applier = multi_tensor_l2norm = multi_tensor_scale = FusedAdam\n"
    )
    code = (
        "import meshwright.train.megatron, torch; from megatron.core import optimizer; print(optimizer.Adam.__module__)"
    )
    done = run(code, path=str(tmp_path))
    assert done.stdout.split()[-1].startswith("torch.optim"), done.stdout + done.stderr


def test_what_pip_installs_is_enough_for_the_defaults() -> None:
    plan = resolve(load(H100).stages[0])
    assert "--no-gradient-accumulation-fusion" in flags(plan)
    assert {row.component for row in needed(plan.spec)} == {"transformer_engine"}


@pytest.mark.parametrize(
    ("words", "component", "instead"),
    [
        (["software=ngc"], "APEX", "gradient_accumulation_fusion=false"),
        (["training.precision=fp8_delayed"], "Transformer Engine", "transformer=local"),
        (
            ["backend=deepspeed", "parallelism=zero1", "backend.deepspeed.attention=flash_attention_2", "software=ngc"],
            "flash-attn",
            "attention=sdpa",
        ),
        (["backend=deepspeed", "parallelism=zero1"], "nvcc", "torch_adam=true"),
    ],
)
def test_a_plan_says_what_its_nodes_need(
    words: list[str], component: str, instead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from meshwright.cli import main

    rows = needed(load([*H100, *words]).stages[0])
    assert instead in next(row.instead for row in rows if row.name == component)
    assert main(["plan", *H100, *words]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "nodes need" in line)
    assert component in line


def test_a_component_is_named_once_in_its_newest_version(capsys: pytest.CaptureFixture[str]) -> None:
    from meshwright.cli import main

    assert main(["plan", *H100, "software=ngc", "parallelism=zero1", "parallelism.gtp=2"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "nodes need" in line)
    assert line.count("Transformer Engine") == 1
    assert "Transformer Engine 2.19.0 (in software=ngc, which does not say its version)" in line


def test_a_cpu_needs_none_of_it() -> None:
    assert needed(load(["model=tiny", "cluster=local_cpu", "cluster.gpus=2"]).stages[0]) == ()


def test_doing_without_makes_the_need_go_away() -> None:
    fused = [*H100, "software=ngc", "backend.megatron.transformer=local"]
    assert {row.component for row in needed(load(fused).stages[0])} == {"apex"}
    assert needed(load([*fused, "backend.megatron.gradient_accumulation_fusion=false"]).stages[0]) == ()


def test_the_job_looks_for_it_on_every_node(tmp_path: Path) -> None:
    fused = [*H100, "launch=slurm", "software=ngc"]
    script = files(resolve(load(fused).stages[0]))["job.sbatch"]
    assert '"$checkpoints" module:transformer_engine module:fused_weight_gradient_mlp_cuda' in script
    pytest.importorskip("torch")
    lacks = list(missing(0, 0.0, 1, tmp_path, ["module:fused_weight_gradient_mlp_cuda", "module:json", "program:sh"]))
    assert len(lacks) == 1
    assert "fused_weight_gradient_mlp_cuda is not there" in lacks[0]


def test_the_doctor_names_what_options_need(tmp_path: Path) -> None:
    found = {one.name: one for one in findings(tmp_path)}
    assert "gradient_accumulation_fusion=true" in found["APEX"].allows
    assert {"flash-attn", "DeepEP", "nvcc", "ninja"} <= found.keys()


@pytest.mark.parametrize("wanted", [True, False])
def test_no_checkpoint_where_none_is_wanted(wanted: bool, done: dict[str, Done]) -> None:
    line = json.loads(done[f"checkpoints {wanted}"].said.splitlines()[-1])
    assert ("--save" in line) is wanted
    assert ("--load" in line) is wanted


def test_no_checkpoint_and_an_interval_contradict_each_other() -> None:
    base = spec(small_model(), 8)
    logging = replace(base.training.logging, checkpoints=False, save_interval=10)
    (problem,) = refusals(replace(base, training=replace(base.training, logging=logging)), "megatron")
    assert problem.path == "training.logging.checkpoints"
    assert len(problem.repairs) == 2


def _written(asked: Spec, folder: Path) -> Path:
    for name, text in files(resolve(asked)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


WORKER = "import sys, time; from meshwright.train.lifeline import run; "
LAUNCHER = """
import sys
from meshwright.jobs.followed import followed
followed([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"])
"""


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def ends(pid: int, patience: float = 10.0) -> bool:
    limit = time.monotonic() + patience
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_a_launcher_started_ends_with_it(number: int) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(meshwright.__file__).parents[1])}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], env=env, stderr=subprocess.PIPE, text=True)
    assert launcher.stderr is not None
    started = int(launcher.stderr.readline())
    launcher.send_signal(number)
    launcher.wait(10)
    assert ends(started)


def test_a_rank_ends_with_torchrun() -> None:
    worker = WORKER + "run(lambda words: (print('up', flush=True), time.sleep(60)), [])"
    code = f"import subprocess, sys, os; words = [sys.executable, '-c', {worker!r}]\n"
    code += "p = subprocess.Popen(words, stdout=subprocess.PIPE)\n"
    code += "p.stdout.readline(); print(p.pid, flush=True); os.kill(os.getpid(), 9)"
    done = run(code)
    assert ends(int(done.stdout))


def test_a_rank_that_fails_ends_though_a_thread_of_it_waits() -> None:
    hang = "import threading; threading.Thread(target=time.sleep, args=(60,)).start()\n"
    began = time.monotonic()
    done = run(WORKER + hang + "def fail(words): raise RuntimeError('no memory')\nrun(fail, [])")
    assert done.returncode == 1
    assert "RuntimeError: no memory" in done.stderr
    assert time.monotonic() - began < 30


def test_what_a_rank_forked_ends_with_it() -> None:
    """Megatron's writers of checkpoints are told through a manager, a process of its own."""
    manager = "import multiprocessing as mp, os\ndef main(words):\n    m = mp.get_context('fork').Manager()\n"
    manager += "    print(m._process.pid, flush=True)\n    os.kill(os.getpid(), 9)\nrun(main, [])"
    done = run(WORKER.replace("; run", "") + "\n" + manager)
    assert ends(int(done.stdout))
