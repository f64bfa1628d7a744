"""A launch on this machine that is ended, however that happens, leaves nothing alive of what it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import meshwright
from meshwright.train import metrics

pytest.importorskip("megatron.training")

TINY = ("model=tiny", "cluster=local_cpu", "cluster.gpus=2", "training.sequence=64", "training.global_batch=2")
ENDLESS = ("training.steps=100000", "verify=false")
# of an entry of others, which listens to nobody
DEAF = """import os, signal, sys, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
open(f"{sys.argv[0]}.deaf{os.environ['RANK']}", "w").close()
time.sleep(600)
"""


class Launch:
    """``meshwright launch`` under way, and what it started."""

    def __init__(self, runs: Path, *words: str) -> None:
        self.runs = runs
        line = [sys.executable, "-m", "meshwright", "launch", *TINY, *ENDLESS, f"runs={runs}", *words]
        of_ours = str(Path(meshwright.__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": of_ours, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3"}
        with (runs / "said").open("w") as said:
            self.process = subprocess.Popen(line, env=env, stdout=said, stderr=said, start_new_session=True)

    def started(self, word: str = "") -> list[int]:
        """Processes whose command line names the folder of its runs and ``word``; the launch itself is none."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            words = _command_line(path)
            if str(self.runs) in words and word in words and int(path.name) != self.process.pid:
                found.append(int(path.name))
        return found

    def until(self, holds: Callable[[], object], seconds: float = 240) -> None:
        limit = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() in (None, -signal.SIGKILL), (self.runs / "said").read_text()[-3000:]
            assert time.monotonic() < limit, (self.runs / "said").read_text()[-3000:]
            time.sleep(0.05)

    def end(self, number: int) -> int:
        """The exit code after signal ``number``."""
        self.process.send_signal(number)
        return self.process.wait(60)


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:  # it has ended
        return ""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    made: list[Launch] = []

    def launched(*words: str) -> Launch:
        made.append(Launch(tmp_path, *words))
        return made[-1]

    yield launched
    for one in made:
        for process in (one.process.pid, *one.started()):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        one.process.wait()


def ended(launch: Launch, number: int) -> None:
    code = launch.end(number)
    if number == signal.SIGKILL:  # which nobody can wait after; the kernel asks torchrun
        assert code == -signal.SIGKILL
        launch.until(lambda: not launch.started(), 30)
    else:
        assert code == 128 + number
        assert launch.started() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_while_its_ranks_begin(launch: Callable[..., Launch], number: signal.Signals) -> None:
    """They are importing, and listen to nothing yet."""
    one = launch()
    one.until(lambda: len(one.started("-m meshwright.train.megatron")) >= 3)  # torchrun and two ranks
    ended(one, number)


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, pytest.param(signal.SIGKILL, marks=pytest.mark.slow(reason="nobody listens to it anyway"))],
)
def test_with_ranks_that_do_not_listen(launch: Callable[..., Launch], number: signal.Signals, tmp_path: Path) -> None:
    entry = tmp_path / "pretrain.py"
    entry.write_text(DEAF)
    one = launch(f"launch.entry={entry}")
    one.until(lambda: len(list(tmp_path.glob("*.deaf?"))) == 2)
    ended(one, number)


def test_one_at_work_saves_and_goes_on_from_there(launch: Callable[..., Launch]) -> None:
    one = launch()
    steps = lambda: [line["step"] for path in one.runs.glob("*/metrics.jsonl") for line in metrics.read(path)]  # noqa: E731
    one.until(lambda: len(steps()) > 2)
    ended(one, signal.SIGTERM)
    (saved,) = one.runs.glob("*/checkpoints/latest_checkpointed_iteration.txt")
    assert int(saved.read_text()) == steps()[-1]
    assert "SIGTERM: asking the ranks to save and end" in (one.runs / "said").read_text()
