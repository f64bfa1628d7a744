"""Checks in processes forked from one warmed parent.

A backend keeps its configuration in module globals and takes seconds to import. So it is imported once, and each check
runs in a fork that ends with it: one check's globals never touch another's.
"""

from __future__ import annotations

import os
import pickle
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Crash", "fork_map"]


@dataclass(frozen=True)
class Crash:
    """A check that did not return: the exception's text and place, or how its process ended."""

    text: str


def fork_map[T, R](work: Callable[[T], R], items: Sequence[T], processes: int | None = None) -> list[R | Crash]:
    """``[work(item) for item in items]``, each in a fork of this process, ``processes`` at a time.

    The results come back pickled, in the order of ``items``.
    """
    processes = processes or len(os.sched_getaffinity(0))
    results: list[R | Crash] = [Crash("never ran")] * len(items)
    running: dict[int, tuple[int, int, bytearray]] = {}  # read end -> index, pid, what came
    waiting = list(range(len(items)))[::-1]
    while waiting or running:
        while waiting and len(running) < processes:
            index = waiting.pop()
            end, pid = _fork(work, items[index])
            running[end] = (index, pid, bytearray())
        for end in select.select(list(running), [], [])[0]:
            index, pid, came = running[end]
            chunk = os.read(end, 1 << 20)
            came += chunk
            if not chunk:
                results[index] = _result(end, pid, came)
                del running[end]
    return results


def _fork[T, R](work: Callable[[T], R], item: T) -> tuple[int, int]:
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return read, pid
    os.close(read)
    try:
        payload = pickle.dumps(_guarded(work, item))
        with os.fdopen(write, "wb") as pipe:
            pipe.write(payload)
    finally:
        os._exit(0)  # skip the parent's exit handlers


def _guarded[T, R](work: Callable[[T], R], item: T) -> R | Crash:
    """Silence the backends' chatter and turn every exception into a Crash."""
    void = os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, 1)
    os.dup2(void, 2)
    sys.stdout = sys.stderr = os.fdopen(void, "w")
    try:
        return work(item)
    except BaseException as error:  # SystemExit of an argument parser included
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = "/".join(frame.filename.split("/")[-3:])
        text = " ".join(str(error).split()) or f"(bare assert) {frame.line}"
        return Crash(f"{type(error).__name__}: {text} ({place}:{frame.lineno})")


def _result(end: int, pid: int, came: bytearray) -> Any:
    os.close(end)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return pickle.loads(came) if came else Crash(f"the process ended with {status} and no result")
