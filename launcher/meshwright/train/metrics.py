"""One JSON line a step: what the run is doing, for people, for ``meshwright status`` and for comparisons."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["install", "read", "write"]


def write(path: Path, **values: float | int | None) -> None:
    """Append one line, on its own even where the last one was cut off. Losses keep their full precision."""
    line = json.dumps(values).encode() + b"\n"
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines in order of their steps; where a run went back to a checkpoint, the later line counts.

    A line that was cut off, or is being written, is left out.
    """
    said = filter(None, map(_line, path.read_text(errors="replace").splitlines() if path.exists() else ()))
    return [line for _, line in sorted({line["step"]: line for line in said}.items())]


def _line(text: str) -> dict[str, Any] | None:
    try:
        line: Any = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def install(path: Path) -> None:
    """Have Megatron's log write its numbers to ``path``, too, on the rank that knows the loss (the last one)."""
    from megatron.training import training

    log, last = training.training_log, [time.perf_counter()]

    def logged(losses: Any, totals: Any, rate: Any, step: int, *rest: Any, **named: Any) -> Any:
        now = time.perf_counter()
        seconds, last[0] = now - last[0], now
        if losses and _writes():
            _scale, _report, _skipped, grad_norm, *_ = rest
            _write(path, losses, rate, step, grad_norm, seconds)
        return log(losses, totals, rate, step, *rest, **named)

    training.training_log = logged


def _writes() -> bool:
    import torch

    return torch.distributed.get_rank() == torch.distributed.get_world_size() - 1


def _write(path: Path, losses: Any, learning_rate: Any, step: int, grad_norm: Any, seconds: float) -> None:
    from megatron.core.num_microbatches_calculator import get_current_global_batch_size
    from megatron.training import get_args

    tokens = get_current_global_batch_size() * get_args().seq_length
    write(
        path,
        step=step,
        loss=float(losses["lm loss"]),
        grad_norm=None if grad_norm is None else float(grad_norm),
        lr=learning_rate,
        step_time_s=seconds,
        tokens_per_s=tokens / seconds,
    )
