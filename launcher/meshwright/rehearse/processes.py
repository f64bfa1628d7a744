"""Ranks as processes of this machine, forked from one that has already imported the program's libraries."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from meshwright.train.lifeline import follow_parent

__all__ = ["RankError", "train", "warm"]


GRACE = 20.0  # seconds

# What each program imports only while it runs, which every rank would do again: more than its training takes.
LATE = {
    "meshwright.train.megatron": ("meshwright.train.cpu", "megatron.core.tokenizers.text.models"),
    "meshwright.train.deepspeed": (
        "torch.utils.cpp_extension",
        "deepspeed.module_inject.auto_ep_layer",
        "transformers.modeling_utils",
        "transformers.models.auto.modeling_auto",
    ),
}
_served: list[str] = []  # the program whose libraries the server has imported


class RankError(RuntimeError):
    """A rank ended with an error; the message has the end of its log."""


def warm(program: str, log: Path) -> None:
    """Start importing what the ranks of ``program`` need, beside whatever this process does meanwhile."""
    if _served == [program]:
        return
    if _served:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # its own tests' way: the next has other libraries
    _served[:] = [program]
    forkserver.set_forkserver_preload([program, *LATE.get(program, ())])
    sys.stderr.flush()
    terminal = os.dup(2)
    with log.open("a") as file:
        os.dup2(file.fileno(), 2)  # what libraries have to say when they are imported is for the log
    try:  # the server does not take over sys.path (CPython 3.12)
        with _environment(PYTHONPATH=os.pathsep.join(sys.path), TMPDIR=_scratch().name):
            forkserver.ensure_running()
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@cache
def _scratch() -> TemporaryDirectory[str]:
    """What libraries lay down in every rank, which runs no exit handlers where it fails; it goes when we end.

    Not in the rehearsal's folder: the name of a socket may have 107 characters.
    """
    return TemporaryDirectory(prefix="meshwright-", ignore_cleanup_errors=True)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def train(program: str, ranks: int, words: Sequence[str], logs: Path) -> None:
    """Run ``main(words)`` of the module ``program`` as ``ranks`` ranks, each with its log in ``logs``.

    Importing Megatron takes seconds, forking does not: all ranks come from the server process that ``warm`` started.
    A program that is no backend's, such as that which writes the text, takes what server there is.

    Raises:
        RankError: when one of them failed; the others are stopped.

    """
    logs.mkdir(parents=True, exist_ok=True)
    if program in LATE:
        warm(program, logs / "imports.log")
    started = _start(program, ranks, words, logs)
    try:
        failed = _first_failure(started)
    finally:  # also when the user has seen enough
        _stop(started)
    if failed is not None:
        text = (logs / f"rank{failed}.log").read_text(errors="replace")
        raise RankError(f"rank {failed} of {ranks} failed:\n" + "\n".join(text.splitlines()[-12:]))


def _start(program: str, ranks: int, words: Sequence[str], logs: Path) -> list[BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    world = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    started: list[BaseProcess] = [
        context.Process(target=_rank, args=(program, rank, world, list(words), logs / f"rank{rank}.log"))
        for rank in range(ranks)
    ]
    for process in started:
        process.start()
    return started


def _rank(program: str, rank: int, world: Mapping[str, str], words: Sequence[str], log: Path) -> None:
    follow_parent(signal.SIGKILL)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(world, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=world["WORLD_SIZE"])
    import_module(program).main(words)


def _first_failure(started: Sequence[BaseProcess]) -> int | None:
    """Wait for all, or for the first that fails: its rank. Its fellows may not hear a signal to end."""
    running = {process.sentinel: rank for rank, process in enumerate(started)}
    while running:
        for sentinel in wait(list(running)):
            assert isinstance(sentinel, int)
            rank = running.pop(sentinel)
            started[rank].join()
            if started[rank].exitcode:
                return rank
    return None


def _stop(started: Sequence[BaseProcess]) -> None:
    """End what still runs: first asked, which lets it end its own children."""
    for process in started:
        process.terminate()
    for process in started:
        process.join(GRACE)
        process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
