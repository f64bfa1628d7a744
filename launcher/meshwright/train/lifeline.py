"""A worker does not outlive what started it, and one that fails ends at once.

A process group's threads keep a failed rank alive, its fellows wait for it in a collective, and a launcher that is
killed cannot end anybody: each would hold its GPU's memory until a person ends it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

__all__ = ["follow_parent", "forks_follow", "run"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run(main: Callable[[Sequence[str]], None], words: Sequence[str]) -> None:
    """``main(words)`` as a worker of torchrun: killed with it; where it fails, the traceback and an end at once."""
    follow_parent(signal.SIGKILL)
    forks_follow()
    try:
        main(words)
    except Exception:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def forks_follow() -> None:
    """What this process forks ends with it, too: the queue of checkpoint writers has outlived its rank for hours.

    And not before it: torchrun signals a rank's whole group, and a rank that is asked to end needs that queue to save.
    The kernel watches the thread that forks, so a fork of another thread than the main one is left alone.
    """
    from_main = [0]  # the forking process; 0: another thread of it

    def before() -> None:
        from_main[0] = os.getpid() if threading.current_thread() is threading.main_thread() else 0

    def child() -> None:
        if from_main[0]:
            follow_parent(signal.SIGKILL, from_main[0])
            os.setpgid(0, 0)

    os.register_at_fork(before=before, after_in_child=child)


def follow_parent(number: int, parent: int = 0) -> None:
    """Let the kernel send this process signal ``number`` when its parent ends (Linux), also after an exec.

    ``parent``: which process that is, where it is known; it may have ended before this one got so far.
    """
    parent = parent or os.getppid()
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    except (OSError, AttributeError):  # not Linux
        return
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), number)
