"""Ranks as processes of this machine, forked from one that has already imported the program's libraries."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from meshwright.train.lifeline import follow_parent, run

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
    with _meeting(ranks) as place:
        failed = _first_failure(program, {"WORLD_SIZE": str(ranks), **place}, words, logs)
    if failed is not None:
        log = logs / f"rank{failed}.log"
        text = log.read_text(errors="replace") if log.exists() else "it ended before it had a log"
        raise RankError(f"rank {failed} of {ranks} failed:\n" + "\n".join(text.splitlines()[-12:]))


@contextmanager
def _meeting(ranks: int) -> Iterator[dict[str, str]]:
    """The variables that say where ranks meet: a store that already listens, whose port nobody can take in between."""
    address = {"MASTER_ADDR": "127.0.0.1"}
    if ranks == 1:  # it opens a port for itself
        yield {**address, "MASTER_PORT": "0"}
        return
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_store, args=(theirs,))
    process.start()
    theirs.close()
    try:  # as torchrun's agent does (torch/distributed/rendezvous.py, _create_c10d_store)
        yield {**address, "MASTER_PORT": str(ours.recv()), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    finally:
        ours.close()
        _stop([process])


def _store(pipe: Connection) -> None:
    """Keep a store at a port that the kernel chooses, which it sends, until the pipe closes."""
    _end_with_server()
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    with suppress(EOFError):
        pipe.recv()


def _end_with_server() -> None:
    """Where the rehearsal is killed, the server ends, and the kernel ends this process with it.

    The server ends when nobody holds its pipe any longer. CPython gives the pipe to everyone whom the server forks
    (multiprocessing/forkserver.py), and a rank that waits for ever would keep the server, and so itself, for ever.
    """
    follow_parent(signal.SIGKILL)
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]


def _rank(program: str, rank: int, world: Mapping[str, str], words: Sequence[str], log: Path) -> None:
    os.setpgid(0, 0)
    _end_with_server()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(world, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=world["WORLD_SIZE"])
    run(import_module(program).main, words)


def _first_failure(program: str, world: Mapping[str, str], words: Sequence[str], logs: Path) -> int | None:
    """The first rank that fails; None where none does. Whatever ends this, no rank and no child of one is left."""
    context = multiprocessing.get_context("forkserver")
    started: list[BaseProcess] = []
    try:
        for rank in range(int(world["WORLD_SIZE"])):
            log = logs / f"rank{rank}.log"
            process = context.Process(target=_rank, args=(program, rank, world, list(words), log))
            process.start()
            started.append(process)
        return _waited(started)
    finally:  # also when the user has seen enough
        _stop(started)


def _waited(started: Sequence[BaseProcess]) -> int | None:
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
    """End what still runs: first asked, which lets it end its own children; then killed, with what it has left."""
    for process in started:
        process.terminate()
    limit = time.monotonic() + GRACE
    for process in started:
        process.join(max(0.0, limit - time.monotonic()))
        process.kill()
        process.join()
        assert process.pid  # 0 would be our own group
        with suppress(ProcessLookupError):  # a rank is the first of its group, which stays while anyone is in it
            os.killpg(process.pid, signal.SIGKILL)
