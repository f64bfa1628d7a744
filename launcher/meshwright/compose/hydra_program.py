"""Hydra as a program, for what it answers by itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from meshwright.compose.by_hydra import PACKAGE, PRIMARY, VERSION_BASE

__all__ = ["hydra_program"]


def hydra_program(words: Sequence[str]) -> None:
    """Let Hydra print what ``words`` ask for."""
    import hydra

    sys.argv = ["meshwright", *words]
    with _ended_by_a_closed_pipe():
        hydra.main(version_base=VERSION_BASE, config_path=f"pkg://{PACKAGE}", config_name=PRIMARY)(lambda _: None)()
        sys.stdout.flush()


@contextmanager
def _ended_by_a_closed_pipe() -> Iterator[None]:
    """Exit with 0 at the first write nobody reads: Hydra's loggers and its report of errors print tracebacks for it."""
    before = signal.signal(signal.SIGPIPE, lambda *_: os._exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)
