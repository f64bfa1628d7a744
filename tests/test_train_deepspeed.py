"""Training with DeepSpeed over several processes gives the losses of one process, resumes, and heeds signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from builders import small_model
from meshwright.emit.deepspeed import config, program
from meshwright.emit.huggingface import config as architecture
from meshwright.jobs import losses
from meshwright.jobs.profiles import profiles
from meshwright.resolver import resolve
from meshwright.spec import Evaluation, Logging, RampStep
from meshwright.spec.model import Moe
from meshwright.train import metrics
from test_emit_deepspeed import deepspeed

pytest.importorskip("deepspeed")
pytest.importorskip("transformers")

PROGRAM = "meshwright.train.deepspeed"
DENSE = small_model(layers=2, hidden=32, ffn=64, heads=4, kv_heads=2, head_dim=8, vocab=64)
EXPERTS = small_model(
    **{"layers": 2, "hidden": 32, "ffn": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "vocab": 64},
    moe=Moe(experts=4, topk=2, ffn=32),
    transformers="mixtral",
)
STEPS = 16
SHORT: Mapping[str, Any] = {
    "training.precision": "fp32",
    "training.sequence": 32,
    "training.global_batch": 8,
    "training.steps": STEPS,
    "training.optimizer.lr": 1e-2,
    "training.schedule.warmup_steps": 2,
}
LAYOUTS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "dp 2, stage 3": (DENSE, {"zero": 3}),
    "tp 2, stage 1": (DENSE, {"tp": 2, "zero": 1}),
    "cp 2, stage 2": (DENSE, {"cp": 2, "zero": 2}),
    "cp 2, stage 3": (DENSE, {"cp": 2, "zero": 3}),
    "ep 2, stage 1": (EXPERTS, {"ep": 2, "zero": 1}),
}
QUICK = ("tp 2, stage 1", "cp 2, stage 3")


def prepared(folder: Path, gpus: int, model: Any, changes: Mapping[str, Any] | None = None, **degrees: Any) -> Path:
    """A run folder with what the program reads."""
    plan = resolve(deepspeed(gpus, {"model": model, **SHORT, **(changes or {})}, **degrees))
    texts = {"ds_config": config(plan), "config": architecture(model), "program": program(plan)}
    (folder / "deepspeed").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "deepspeed" / f"{name}.json").write_text(json.dumps(text))
    return folder


def trained(folder: Path, ranks: int, program: str = PROGRAM) -> list[float]:
    from meshwright.rehearse.processes import train

    train(program, ranks, [str(folder)], folder / "logs")
    return of(folder, "loss")


WATCHED = {"training.evaluation": Evaluation(interval=10, steps=2, at_end=True)}
Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """By name the folder of a run, of one process or of a layout; each is trained once, and validates."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"dense": (1, DENSE, {"zero": 1}), "experts": (1, EXPERTS, {"zero": 1})}
    kinds |= {name: (2, *layout) for name, layout in LAYOUTS.items()}

    @cache
    def run(name: str) -> Path:
        ranks, model, degrees = kinds[name]
        path = prepared(folder / name, ranks, model, WATCHED, **degrees)
        trained(path, ranks)
        return path

    return run


def of(folder: Path, key: str) -> list[float]:
    return [line[key] for line in metrics.read(folder / "metrics.jsonl") if key in line]


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(
            name, marks=[] if name in QUICK else pytest.mark.slow(reason="two more processes each; QUICK has the traps")
        )
        for name in LAYOUTS
    ],
)
def test_two_processes_have_the_losses_of_one(layout: str, runs: Runs) -> None:
    found = of(runs(layout), "loss")
    reference = of(runs("experts" if LAYOUTS[layout][0] is EXPERTS else "dense"), "loss")
    assert len(found) == STEPS
    assert found[0] - found[-1] > 1
    assert max(abs(a - b) for a, b in zip(found, reference, strict=True)) <= 1e-4


def test_a_ramp_grows_the_batch(tmp_path: Path) -> None:
    ramp = (RampStep(from_tokens=0, global_batch=2), RampStep(from_tokens=128, global_batch=4))
    changes = {"training.ramp": ramp, "training.global_batch": 4, "training.steps": 4}
    folder = prepared(tmp_path / "run", 1, DENSE, changes, zero=1)
    trained(folder, 1)
    tokens = [line["tokens_per_s"] * line["step_time_s"] for line in metrics.read(folder / "metrics.jsonl")]
    assert [round(count) for count in tokens] == [2 * 32, 2 * 32, 4 * 32, 4 * 32]


def test_old_checkpoints_go_and_a_step_is_profiled_while_it_trains(tmp_path: Path) -> None:
    logging = Logging(save_interval=10, keep_last=1, save_at_end=False, profile=3)
    folder = prepared(tmp_path / "run", 1, DENSE, {"training.logging": logging, "training.steps": 25}, zero=1)
    trained(folder, 1)
    assert [path.name for path in (folder / "checkpoints").glob("step*")] == ["step20"]
    (profile,) = profiles(folder)
    assert "step 3" in {event["name"] for event in profile.events}


def test_it_validates_on_the_way_and_at_the_end_alike_on_any_layout(runs: Runs) -> None:
    folders = [runs("dense"), runs("cp 2, stage 3")]
    one, two = ([line for line in metrics.read(f / "metrics.jsonl") if "valid_loss" in line] for f in folders)
    assert [line["step"] for line in one] == [10, STEPS]
    assert [line["valid_loss"] for line in two] == pytest.approx([line["valid_loss"] for line in one], abs=1e-4)
    assert one[1]["valid_loss"] < one[0]["valid_loss"]
    assert all(line["valid_loss"] != line["loss"] for line in one)


def test_a_slow_rank_is_named(tmp_path: Path) -> None:
    """In its own log, in the metrics and to people; the step's time alone is the same on both ranks."""
    folder = prepared(tmp_path / "run", 2, DENSE, {"training.steps": 7}, zero=1)
    trained(folder, 2, "faults.deepspeed_slow_rank")
    (told,) = [line for line in metrics.read(folder / "metrics.jsonl") if "slow_rank" in line]
    assert (told["step"], told["slow_rank"]) == (6, 1)
    assert told["slow_times"] > 1.5
    assert "rank 1 on " in (folder / "logs" / "rank1.log").read_text()
    (said,) = losses.slow_ranks(metrics.read(folder / "metrics.jsonl"))
    assert said.startswith("rank 1 is slow: its forward passes take")


def test_a_loss_that_jumps_and_one_that_is_no_number_are_said(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run", 1, DENSE, {"training.global_batch": 1, "training.steps": 30}, zero=1)
    trained(folder, 1, "faults.deepspeed_no_number")
    broken, jumped = losses.told(metrics.read(folder / "metrics.jsonl"))
    assert broken.startswith("loss: no number in 3 steps, first in step 28")
    assert " in step 25, " in jumped


def test_a_signal_saves_and_the_next_start_goes_on(runs: Runs, tmp_path: Path) -> None:
    """With the losses of a run that nothing disturbs; nor does validating, which that one does."""
    folder = prepared(tmp_path / "run", 1, DENSE, zero=1)
    first = started(folder)
    while not (folder / "metrics.jsonl").exists():
        assert first.poll() is None, "the run ended before its first step"
        time.sleep(0.02)
    first.send_signal(signal.SIGUSR1)
    assert first.wait() == 75
    done = len(metrics.read(folder / "metrics.jsonl"))
    assert done < STEPS
    assert (folder / "checkpoints" / f"step{done}").is_dir()
    assert trained(folder, 1) == pytest.approx(of(runs("dense"), "loss"), abs=1e-6)


def started(folder: Path) -> subprocess.Popen[bytes]:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    path = os.pathsep.join(sys.path)
    words = [sys.executable, "-m", PROGRAM, str(folder)]
    return subprocess.Popen(words, env={**os.environ, **alone, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)
