"""Megatron-LM's own program saves and goes on where ours would: what ours decides at run time is emitted for it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import meshwright
from builders import small_model, spec
from meshwright.jobs.run_folder import files
from meshwright.resolver import resolve
from meshwright.spec import Launch, Spec

PROGRAM = """
import sys
from pathlib import Path
from megatron.training.arguments import parse_args
arguments = parse_args()
print("save", arguments.save, "load", arguments.load, "evaluates", arguments.eval_iters)
if arguments.save:
    Path(arguments.save).mkdir(parents=True, exist_ok=True)
    (Path(arguments.save) / "latest_checkpointed_iteration.txt").write_text("10")
"""


def folder_of(asked: Spec, where: Path) -> Path:
    program = where / "pretrain_gpt.py"
    program.write_text(PROGRAM)
    launch = Launch(entry=str(program), python=sys.executable)
    for name, text in files(resolve(replace(asked, launch=launch))).items():
        (where / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (where / "run" / name).write_text(text)
    return where / "run"


def start(folder: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(meshwright.__file__).parents[1])}
    done = subprocess.run(["bash", str(folder / "launch.sh")], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("save"))


def test_it_saves_and_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("megatron.training")
    folder = folder_of(spec(small_model(), 1), tmp_path)
    checkpoints = folder / "checkpoints"
    assert start(folder) == f"save {checkpoints} load None evaluates 0"
    assert start(folder) == f"save {checkpoints} load {checkpoints} evaluates 0"


def test_it_saves_where_it_is_told(tmp_path: Path) -> None:
    pytest.importorskip("megatron.training")
    base = spec(small_model(), 1)
    logging = replace(base.training.logging, save=str(tmp_path / "elsewhere"), load="/before", save_interval=5)
    folder = folder_of(replace(base, training=replace(base.training, logging=logging)), tmp_path)
    assert start(folder) == f"save {tmp_path / 'elsewhere'} load /before evaluates 0"
    assert start(folder) == f"save {tmp_path / 'elsewhere'} load {tmp_path / 'elsewhere'} evaluates 0"


def test_it_saves_nothing_where_nothing_is_wanted(tmp_path: Path) -> None:
    pytest.importorskip("megatron.training")
    base = spec(small_model(), 1)
    logging = replace(base.training.logging, checkpoints=False)
    folder = folder_of(replace(base, training=replace(base.training, logging=logging)), tmp_path)
    assert start(folder) == "save None load None evaluates 0"
