"""Checks in processes forked from one warmed parent.

A backend keeps its configuration in module globals and takes seconds to import. So it is imported once, and each check
runs in a fork that ends with it: one check's globals never touch another's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from tempfile import TemporaryDirectory
from typing import Any

from meshwright.spec.frozen import dataclass
from meshwright.train.lifeline import follow_parent, forks_follow

__all__ = ["Crash", "fork_map"]


@dataclass(frozen=True)
class Crash:
    """A check that did not return: the exception's text and place, or how its process ended."""

    text: str


def fork_map[T, R](work: Callable[[T], R], items: Sequence[T], processes: int | None = None) -> list[R | Crash]:
    """``[work(item) for item in items]``, each in a fork of this process, ``processes`` at a time.

    The results come back pickled, in the order of ``items``.
    """
    with TemporaryDirectory(prefix="meshwright-", ignore_cleanup_errors=True) as folder:
        return _all(work, items, processes or len(os.sched_getaffinity(0)), folder)


def _all[T, R](work: Callable[[T], R], items: Sequence[T], processes: int, folder: str) -> list[R | Crash]:
    results: list[R | Crash] = [Crash("never ran")] * len(items)
    running: dict[Any, tuple[int, BaseProcess]] = {}
    waiting = list(range(len(items)))[::-1]
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                index = waiting.pop()
                end, process = _fork(work, items[index], folder)
                running[end] = (index, process)
            for end in wait(list(running)):
                index, process = running.pop(end)
                results[index] = _result(end, process)
    finally:  # the user has seen enough: multiprocessing would wait for them
        for _, process in running.values():
            process.kill()
    return results


def _fork[T, R](work: Callable[[T], R], item: T, folder: str) -> tuple[Any, BaseProcess]:
    # multiprocessing ends what a check itself has started (Megatron's checkpoint writers), which os.fork would leave
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, item, folder, theirs, os.getpid()))
    process.start()
    theirs.close()
    return ours, process


def _child[T, R](work: Callable[[T], R], item: T, folder: str, pipe: Connection, parent: int) -> None:
    follow_parent(signal.SIGKILL, parent)
    forks_follow()
    # a fork runs no exit handlers: what libraries lay down as they are imported (wandb's folders) would stay for ever
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    pipe.send(_guarded(work, item))


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


def _result(end: Any, process: BaseProcess) -> Any:
    try:
        result = end.recv()
    except EOFError:
        process.join()
        result = Crash(f"the process ended with {process.exitcode} and no result")
    end.close()
    process.join()
    return result
