"""A program that is not ours saves and goes on where ours would, and is watched: what ours does is emitted."""

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
from meshwright.spec import Spec
from meshwright.spec.launch import Watchdog
from meshwright.spec.training import Logging

MEGATRONS_PARSER = """
from megatron.training.arguments import parse_args
arguments = parse_args()
"""
LAST_WORD_WINS = """
import argparse
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("save", "load", "eval-iters"):
    parser.add_argument(f"--{name}")
arguments, _ = parser.parse_known_args()
"""
SAVES = """
from pathlib import Path
print("save", arguments.save, "load", arguments.load, "evaluates", arguments.eval_iters)
if arguments.save:
    Path(arguments.save).mkdir(parents=True, exist_ok=True)
    (Path(arguments.save) / "latest_checkpointed_iteration.txt").write_text("10")
"""
WITHOUT_TORCHRUN = """#!/usr/bin/env bash
while [[ $1 != *pretrain_gpt.py ]]; do shift; done
exec "{python}" "$@"
"""
"""Stands in for ``python -m torch.distributed.run``, which takes seconds to start: one rank."""


def folder_of(asked: Spec, program: str, where: Path) -> Path:
    entry, python = where / "pretrain_gpt.py", where / "python"
    entry.write_text(program)
    python.write_text(WITHOUT_TORCHRUN.format(python=sys.executable))
    python.chmod(0o755)
    launch = replace(asked.launch, entry=str(entry), python=str(python))
    for name, text in files(resolve(replace(asked, launch=launch))).items():
        (where / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (where / "run" / name).write_text(text)
    return where / "run"


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(meshwright.__file__).parents[1]), **environment}
    return subprocess.run(["bash", str(folder / "launch.sh")], env=env, capture_output=True, text=True, check=False)


def start(folder: Path) -> str:
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("save"))


def small(**logging: object) -> Spec:
    base = spec(small_model(), 1)
    return replace(base, training=replace(base.training, logging=Logging(**logging)))  # type: ignore[arg-type]


def test_it_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("megatron.training")
    folder = folder_of(small(), LAST_WORD_WINS + SAVES, tmp_path)
    checkpoints = folder / "checkpoints"
    assert start(folder) == f"save {checkpoints} load None evaluates 0"
    (tmp_path / "pretrain_gpt.py").write_text(MEGATRONS_PARSER + SAVES)
    assert start(folder) == f"save {checkpoints} load {checkpoints} evaluates 0"


def test_it_saves_where_it_is_told(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    asked = small(save=str(elsewhere), load="/before", save_interval=5)
    folder = folder_of(asked, LAST_WORD_WINS + SAVES, tmp_path)
    assert start(folder) == f"save {elsewhere} load /before evaluates 0"
    assert start(folder) == f"save {elsewhere} load {elsewhere} evaluates 0"


def test_it_saves_nothing_where_nothing_is_wanted(tmp_path: Path) -> None:
    folder = folder_of(small(checkpoints=False), LAST_WORD_WINS + SAVES, tmp_path)
    assert start(folder) == "save None load None evaluates 0"


STEPS = """
import time
for step in range(1, 4):
    print(f" iteration {step}/ 9 | elapsed time per iteration (ms): 100.0 | lm loss: 1.0", flush=True)
    time.sleep(0.1)
"""
NO_STEP_FOR_LONG = "import time; time.sleep(3)"


SLOW = '#!/usr/bin/env bash\nsleep 0.5\nPATH=${PATH#*:} exec cat "$@"\n'
"""Stands in for ``cat`` on a busy machine: the program has written all its lines before the watch first counts them."""


@pytest.mark.parametrize(
    ("program", "hangs"), [(STEPS + "time.sleep(60)", True), (STEPS, False), (NO_STEP_FOR_LONG + STEPS, False)]
)
def test_one_that_hangs_is_ended_from_outside(program: str, hangs: bool, tmp_path: Path) -> None:
    """It writes nothing for two seconds; one that has no step yet may take as long as it likes."""
    asked = replace(small(), launch=replace(small().launch, watchdog=Watchdog(factor=3, seconds=2)))
    folder = folder_of(asked, program, tmp_path)
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "cat").write_text(SLOW)
    (tmp_path / "slow" / "cat").chmod(0o755)
    done = run(folder, PATH=f"{tmp_path / 'slow'}:{os.environ['PATH']}")
    assert ("hangs: nothing was written for 2 s" in done.stderr) == hangs
    assert (done.returncode != 0) == hangs
    assert (folder / "RESTARTS").exists() == hangs
    assert (folder / "logs" / "here-node0.log").read_text().count("lm loss") == 3


def test_it_may_wait_for_ever_where_that_is_wanted() -> None:
    launch = replace(small().launch, entry="/megatron/pretrain_gpt.py", watchdog=Watchdog(factor=0))
    assert "watch" not in files(resolve(replace(small(), launch=launch)))["launch.sh"]
