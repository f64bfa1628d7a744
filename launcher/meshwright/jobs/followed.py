"""A command that does not outlive us: it is asked to end when we are, and we end after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshwright.train.lifeline import follow_parent

__all__ = ["followed"]

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def followed(command: Sequence[str]) -> int:
    """The exit code of ``command``.

    The first signal that would end us asks it to end, so that its ranks can save; a second one kills it, and its ranks
    with it (train.lifeline). Where we are killed ourselves, the kernel asks it.

    Raises:
        SystemExit: with 128 and the signal's number, once it has ended.

    """
    # a session of its own: the terminal's Ctrl-C reaches us alone; its stdout must leave ours to output=json
    with (
        subprocess.Popen(
            command, stdout=sys.stderr, env=_with_own_python(), start_new_session=True, preexec_fn=_follow
        ) as process,
        _passed_on(process) as received,
    ):
        code = process.wait()
    if received:
        raise SystemExit(128 + received[0])
    return code


def _follow() -> None:
    follow_parent(signal.SIGTERM)


@contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """The signals that arrive meanwhile, which do not end us."""
    received: list[int] = []

    def passed(number: int, _: Any) -> None:
        received.append(number)
        print(f"\n{signal.Signals(number).name}: {_DOING[len(received) > 1]}", file=sys.stderr, flush=True)
        process.send_signal(signal.SIGKILL if len(received) > 1 else signal.SIGTERM)

    before = {number: signal.signal(number, passed) for number in ENDING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_DOING = ("asking the ranks to save and end; once more kills them", "killing the ranks")


def _with_own_python() -> dict[str, str]:
    """launch.sh names ``python3`` to stay movable; here that is the one that runs us, whose packages are known."""
    own = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
