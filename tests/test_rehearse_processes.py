"""Ranks of a rehearsal meet where nobody can come between, and none outlives it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import meshwright
from living import alive, left
from meshwright.rehearse import RankError
from meshwright.rehearse.processes import train

pytest.importorskip("torch")

REHEARSAL = """
import signal, sys
from pathlib import Path
from meshwright.rehearse.processes import train
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
train("faults.sleepers", 2, [sys.argv[1]], Path(sys.argv[1]))
"""


def started(folder: Path) -> list[int]:
    """The processes of both ranks, once all have said who they are."""
    limit = time.monotonic() + 60
    while len(files := [path for path in folder.glob("pids*") if path.read_text().endswith("\n")]) < 2:
        assert time.monotonic() < limit
        time.sleep(0.02)
    return [int(pid) for path in files for pid in path.read_text().split()]


def test_nobody_takes_the_port_before_the_ranks_meet(tmp_path: Path) -> None:
    train("faults.port_thief", 2, [], tmp_path)
    for rank in range(2):
        said = (tmp_path / f"rank{rank}.log").read_text()
        assert "not to be had: [Errno 98]" in said
        assert "met 2" in said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ranks_and_what_they_started_end_with_the_rehearsal(number: signal.Signals, tmp_path: Path) -> None:
    paths = os.pathsep.join((str(Path(meshwright.__file__).parents[1]), str(Path(__file__).parent)))
    env = {**os.environ, "PYTHONPATH": paths}
    with (tmp_path / "said").open("w") as said:
        command = [sys.executable, "-c", REHEARSAL, str(tmp_path)]
        rehearsal = subprocess.Popen(command, env=env, stderr=said, start_new_session=True)
    pids = started(tmp_path)
    rehearsal.send_signal(number)
    rehearsal.wait(60)
    programs = pids[1::3] if number == signal.SIGKILL else []  # nobody is left to end what was not forked by Python
    try:
        assert left([pid for pid in pids if pid not in programs]) == []
    finally:
        for pid in filter(alive, programs):
            os.kill(pid, signal.SIGKILL)


def test_those_of_a_rank_that_failed_end_too(tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"rank 1 of 2 failed:\n(.*\n)*RuntimeError: this rank has failed"):
        train("faults.sleepers", 2, [str(tmp_path), "1"], tmp_path)
    assert left(started(tmp_path)) == []
