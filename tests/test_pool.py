"""Checks in forks: results in order, globals apart, crashes told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import meshwright
from living import left
from meshwright.verify.pool import Crash, fork_map

STATE: list[int] = []


def remember(n: int) -> list[int]:
    STATE.append(n)
    return STATE


def misbehave(how: str) -> str:
    if how == "raise":
        raise ValueError("two\n lines")
    if how == "exit":
        raise SystemExit(3)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return "fine" * 100_000


def test_each_item_has_a_process_of_its_own() -> None:
    assert fork_map(remember, list(range(20)), processes=3) == [[n] for n in range(20)]
    assert STATE == []


def test_a_crash_is_a_result() -> None:
    raised, left, died, fine = fork_map(misbehave, ["raise", "exit", "die", "no"])
    assert isinstance(raised, Crash)
    assert raised.text.startswith("ValueError: two lines (")
    assert isinstance(left, Crash)
    assert left.text.startswith("SystemExit: 3 (")
    assert died == Crash("the process ended with -9 and no result")
    assert fine == "fine" * 100_000


def start_a_server(_: int) -> int:
    """As Megatron's queue of checkpoint writers does; it inherits every open file."""
    manager = multiprocessing.get_context("fork").Manager()
    return int(manager._process.pid)  # type: ignore[attr-defined]


def test_what_a_check_starts_ends_with_it() -> None:
    (server,) = fork_map(start_a_server, [0])
    assert isinstance(server, int)
    limit = time.monotonic() + 10
    while os.path.exists(f"/proc/{server}") and time.monotonic() < limit:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{server}")


ENDLESS = """
import signal, sys, test_pool
from meshwright.verify.pool import fork_map
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
fork_map(test_pool.wait_for_ever, [sys.argv[1]] * 2, processes=2)
"""


def wait_for_ever(folder: str) -> None:
    server = start_a_server(0)
    (Path(folder) / f"{os.getpid()}").write_text(f"{os.getpid()} {server}\n")
    time.sleep(600)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_checks_do_not_outlive_what_asked_for_them(number: signal.Signals, tmp_path: Path) -> None:
    paths = os.pathsep.join((str(Path(meshwright.__file__).parents[1]), str(Path(__file__).parent)))
    with (tmp_path.parent / "said").open("w") as said:
        command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
        asking = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=said, start_new_session=True)
    limit = time.monotonic() + 60
    while len(told := [path.read_text() for path in tmp_path.iterdir() if path.read_text().endswith("\n")]) < 2:
        assert time.monotonic() < limit
        time.sleep(0.02)
    asking.send_signal(number)
    asking.wait(30)
    pids = [int(pid) for line in told for pid in line.split()]
    assert left(pids) == []
