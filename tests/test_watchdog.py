"""A hang ends the run with a code of its own and says so; saves, validations and the first steps do not count."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from meshwright.jobs.losses import told
from meshwright.train.watchdog import HUNG, Watchdog

SETTINGS = {"factor": 3.0, "seconds": 0.3}


class Watched:
    """A watchdog whose end is an event."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.codes: list[int] = []
        self.ended = threading.Event()
        self.dog = Watchdog(folder, {**SETTINGS, **settings}, self._end)

    def _end(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()

    def steps(self, count: int) -> None:
        for _ in range(count):
            time.sleep(0.01)
            self.dog.beat()


def test_no_step_for_long_ends_the_run_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    watched = Watched(tmp_path)
    watched.steps(5)
    assert watched.ended.wait(10)
    assert watched.codes == [HUNG]
    assert " 12 hangs: no step for " in (tmp_path / "RESTARTS").read_text()
    said = capfd.readouterr().err
    assert "rank 0 hangs: no step for" in said
    assert "test_no_step_for_long_ends_the_run_and_says_so" in said  # where each thread stands


def test_a_save_and_the_first_steps_may_take_long(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    time.sleep(0.5)
    watched.steps(5)
    assert watched.dog.paused(lambda: watched.ended.wait(0.8))() is False
    watched.steps(2)
    assert watched.codes == []


def test_it_can_be_left_out(tmp_path: Path) -> None:
    watched = Watched(tmp_path, factor=0)
    watched.steps(5)
    assert watched.ended.wait(0.6) is False


def losses(*values: float) -> list[dict[str, Any]]:
    return [{"step": step, "loss": value} for step, value in enumerate(values, 1)]


def test_a_loss_that_is_no_number_is_said() -> None:
    (said,) = told(losses(2.0, 1.9, float("nan"), float("nan")))
    assert said.startswith("loss: no number in 2 steps, first in step 3")


def test_a_spike_is_said_and_noise_is_not() -> None:
    noise = [2.0 + 0.01 * (step % 5) for step in range(60)]
    assert list(told(losses(*noise))) == []
    (said,) = told(losses(*noise[:40], 5.0, *noise[40:]))
    assert said.startswith("loss: 5 in step 41, 2.02 before it; 1 such steps")
    assert list(told([*losses(*noise), {"step": 61, "valid_loss": 9.0}])) == []
