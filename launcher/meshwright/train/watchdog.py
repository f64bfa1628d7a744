"""A run that hangs ends, so that its job starts it again: no step for many times the usual.

Ranks that wait for one another in a collective wait for ever, or until NCCL gives up. Each rank prints where its
threads stand, by which the one that is not in a collective is found; the first notes the hang in ``RESTARTS``.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["HUNG", "Watchdog", "install"]

HUNG = 71  # exit code
WARM_UP, RECENT = 2, 20  # steps


class Watchdog:
    """``beat`` after each step; ``paused`` around what is no step."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], end: Callable[[int], Any] = os._exit) -> None:
        """Take ``launch.watchdog``: a factor of 0 turns it off."""
        self._folder, self._end = folder, end
        self._factor, self._least = float(settings["factor"]), float(settings["seconds"])
        self._usual: deque[float] = deque(maxlen=RECENT)
        self._steps, self._pauses, self._last = 0, 0, time.monotonic()
        if self._factor:
            threading.Thread(target=self._watch, daemon=True).start()

    def beat(self) -> None:
        """A step is done."""
        now = time.monotonic()
        self._steps += 1
        if self._steps > WARM_UP:
            self._usual.append(now - self._last)
        self._last = now

    def paused[**P, T](self, act: Callable[P, T]) -> Callable[P, T]:
        """``act``, during which no step is due: a save, a validation."""

        def acting(*words: P.args, **named: P.kwargs) -> T:
            self._pauses += 1
            try:
                return act(*words, **named)
            finally:
                self._pauses -= 1
                self._last = time.monotonic()

        return acting

    def overdue(self) -> float | None:
        """Seconds since the last step, where they are too many; None where they are not, or none is due."""
        waited, usual = time.monotonic() - self._last, list(self._usual)
        if not usual or self._pauses:
            return None
        return waited if waited > max(self._least, self._factor * median(usual)) else None

    def _watch(self) -> None:
        while (waited := self.overdue()) is None:
            time.sleep(min(1.0, self._least / 4))
        self._tell(f"no step for {waited:.0f} s, {median(self._usual):.3g} s are usual")
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
        self._end(HUNG)

    def _tell(self, text: str) -> None:
        rank = os.environ.get("RANK", "0")
        print(f"rank {rank} hangs: {text}", file=sys.stderr, flush=True)
        if rank == "0":
            job = os.environ.get("SLURM_JOB_ID", "here")
            with (self._folder / "RESTARTS").open("a") as file:
                file.write(f"{datetime.now():%FT%T} {job} hangs: {text}\n")


def install(folder: Path, settings: Mapping[str, Any]) -> None:
    """Watch Megatron's loop."""
    from megatron.training import training

    watchdog, log = Watchdog(folder, settings), training.training_log

    def logged(*words: Any, **named: Any) -> Any:
        watchdog.beat()
        return log(*words, **named)

    training.training_log = logged
    for name in ("save_checkpoint_and_time", "evaluate_and_print_results"):
        setattr(training, name, watchdog.paused(getattr(training, name)))
