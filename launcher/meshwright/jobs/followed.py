"""A command that does not outlive us: it is asked to end when we are, and we end after it."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
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
    follow = partial(follow_parent, signal.SIGTERM, os.getpid())
    # a session of its own: the terminal's Ctrl-C reaches us alone; its stdout must leave ours to output=json
    with (
        TemporaryDirectory(prefix="meshwright-", ignore_cleanup_errors=True) as scratch,
        subprocess.Popen(
            command, stdout=sys.stderr, env=_environment(scratch), start_new_session=True, preexec_fn=follow
        ) as process,
        _passed_on(process) as received,
    ):
        code = process.wait()
    if received:
        raise SystemExit(128 + received[0])
    return code


@contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """The signals that arrive meanwhile, which do not end us."""
    received: list[int] = []

    def passed(number: int, _: Any) -> None:
        received.append(number)
        print(f"\n{signal.Signals(number).name}: {_DOING[len(received) > 1]}", file=sys.stderr, flush=True)
        if len(received) > 1:  # with torchrun, where a script stands between it and us; ranks follow it
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, passed) for number in ENDING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_DOING = ("asking the ranks to save and end; once more kills them", "killing the ranks")


def _environment(scratch: str) -> dict[str, str]:
    """launch.sh names ``python3`` to stay movable; here that is the one that runs us, whose packages are known.

    torchrun and what ranks import leave folders behind, all of them in ``scratch``, which goes with the command; what
    PyTorch has compiled stays where it would look for it (torch/_inductor/runtime/cache_dir_utils.py).
    """
    own, compiled = str(Path(sys.executable).parent), Path(gettempdir()) / f"torchinductor_{_user()}"
    path = f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {"TORCHINDUCTOR_CACHE_DIR": str(compiled), **os.environ, "PATH": path, "TMPDIR": scratch}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container that does not know its user's number
        return f"uid_{os.getuid()}"
