"""One JSON line a step: what the run is doing, for people, for ``meshwright status`` and for comparisons."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from meshwright.spec.frozen import dataclass

__all__ = ["Measured", "install", "install_validation", "measured", "noted", "peak_memory", "read", "write"]

WARM_UP = 2  # first steps of a run, which compile kernels and open connections


@dataclass(frozen=True)
class Measured:
    """What the steps of a run say: seconds of one, bytes of the fullest rank. None: not measured."""

    steps: int
    step_time: float | None
    allocated: float | None  # by PyTorch's allocator to tensors
    reserved: float | None  # by it from the driver


def write(path: Path, **values: float | int | None) -> None:
    """Append one line, on its own even where the last one was cut off. Losses keep their full precision."""
    line = json.dumps(values).encode() + b"\n"
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read(path: Path) -> list[dict[str, Any]]:
    """What is known of each step, in their order; where a run went back to a checkpoint, the later line counts.

    A validation has a line of its own with its step. A line that was cut off, or is being written, is left out.
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in filter(None, map(_line, path.read_text(errors="replace").splitlines() if path.exists() else ())):
        steps[line["step"]] = {**steps.get(line["step"], {}), **line}
    return [line for _, line in sorted(steps.items())]


def measured(lines: Sequence[Mapping[str, Any]], tokens: int) -> Measured:
    """Of steps of ``tokens`` tokens (a ramp has smaller ones), without those that warm up: the later half's median."""
    timed = [line for line in lines[WARM_UP:] if _tokens(line) == tokens]
    seconds = [float(line["step_time_s"]) for line in timed[len(timed) // 2 :]]
    return Measured(
        steps=len(timed),
        step_time=median(seconds) if seconds else None,
        allocated=_largest(lines, "peak_allocated_bytes"),
        reserved=_largest(lines, "peak_reserved_bytes"),
    )


def _tokens(line: Mapping[str, Any]) -> int | None:
    seconds, rate = line.get("step_time_s"), line.get("tokens_per_s")
    known = isinstance(seconds, int | float) and isinstance(rate, int | float)
    return round(seconds * rate) if known else None  # type: ignore[operator]


def _largest(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    found = [line[name] for line in lines if isinstance(line.get(name), int | float)]
    return float(max(found)) if found else None


def peak_memory() -> dict[str, int]:
    """Bytes of the fullest rank so far, allocated and reserved; nothing without CUDA. Every rank must call it."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # is_available is pretended where the CPU stands in
        return {}
    mine = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()]
    peaks = torch.tensor(mine, device="cuda", dtype=torch.int64)
    torch.distributed.all_reduce(peaks, op=torch.distributed.ReduceOp.MAX)
    return dict(zip(("peak_allocated_bytes", "peak_reserved_bytes"), map(int, peaks.tolist()), strict=True))


def _line(text: str) -> dict[str, Any] | None:
    try:
        line: Any = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


_CLOCK = [0.0]  # when the last step ended
_PATH: list[Path] = []


def install(path: Path) -> None:
    """Have Megatron's log write its numbers to ``path``, too, on the rank that knows the loss (the last one)."""
    from megatron.training import training

    log, last = training.training_log, _CLOCK
    last[0] = time.perf_counter()
    _PATH[:] = [path]

    def logged(losses: Any, totals: Any, rate: Any, step: int, *rest: Any, **named: Any) -> Any:
        now = time.perf_counter()
        seconds, last[0] = now - last[0], now
        peaks = peak_memory()
        if losses and _writes():
            _scale, _report, _skipped, grad_norm, *_ = rest
            _write(path, losses, rate, step, grad_norm, seconds, peaks)
        return log(losses, totals, rate, step, *rest, **named)

    training.training_log = logged


def noted(rejected: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``rejected``, a test of a micro-batch's loss, which tells ``metrics.jsonl`` what it rejects.

    Megatron ends the run in the middle of such a step, before its log.
    """
    from megatron.training import get_args

    def telling(loss: Any) -> Any:
        found = rejected(loss)
        if found and _PATH:
            write(_PATH[0], step=get_args().curr_iteration + 1, loss=float(loss))
        return found

    return telling


def install_validation(path: Path, at_end: bool) -> None:
    """Have Megatron's validation losses written to ``path``, too; of its two evaluations at the end, none or the first.

    In its loop it has validated the last step already where the interval divides the steps.
    """
    from megatron.training import training

    show, evaluate, last = training.evaluate_and_print_results, training.evaluate, [0]

    def shown(prefix: str, forward: Any, data: Any, model: Any, step: int, *rest: Any, **named: Any) -> None:
        after = " on " in prefix  # "iteration 9 on validation set", "... on test set"
        if after and ("test set" in prefix or not at_end or last[0] == step):
            return
        last[0], began = step, time.perf_counter()
        show(prefix, forward, data, model, step, *rest, **named)
        _CLOCK[0] += time.perf_counter() - began  # a validation is no part of the next step

    def evaluated(*words: Any, **named: Any) -> Any:
        losses, *others = evaluate(*words, **named)
        if losses and _writes():
            write(path, step=last[0], valid_loss=float(losses["lm loss"]))
        return losses, *others

    training.evaluate_and_print_results, training.evaluate = shown, evaluated


def _writes() -> bool:
    import torch

    return torch.distributed.get_rank() == torch.distributed.get_world_size() - 1


def _write(
    path: Path, losses: Any, learning_rate: Any, step: int, grad_norm: Any, seconds: float, peaks: Mapping[str, int]
) -> None:
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
        **peaks,
    )
