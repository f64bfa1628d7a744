"""A rank that is slower than its peers is named, by the time its own forward passes take.

Every rank's steps take as long as the slowest one's, because they wait for one another in collectives. A forward pass
shows the rank itself, or its tensor- and context-parallel group; where parameters are gathered layer by layer (ZeRO-3,
FSDP) ranks wait within it, too, and only a slow first layer shows. Peers are the ranks of one pipeline stage.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

__all__ = ["EVERY", "OWN", "Comparison", "Slow", "install", "slowest"]

EVERY = 20  # steps between two comparisons; each gathers two numbers of every rank


class Slow(NamedTuple):
    """A rank, and how many times its peers' median it takes."""

    rank: int
    times: float


def slowest(seconds: Sequence[float], stages: Sequence[int], factor: float) -> Slow | None:
    """The rank that is farthest above the median of the others of its stage, where that is by more than ``factor``."""
    found = []
    for stage in set(stages):
        *others, (own, rank) = sorted(
            (s, r) for r, (s, at) in enumerate(zip(seconds, stages, strict=True)) if at == stage
        )
        usual = median(s for s, _ in others) if others else 0.0
        if usual > 0 and own > factor * usual:
            found.append(Slow(rank, own / usual))
    return max(found, key=lambda slow: slow.times, default=None)


class _Own:
    """Seconds of this rank's forward passes since they were last asked for: by CUDA's events, else by the clock."""

    def __init__(self) -> None:
        self._events: list[tuple[Any, Any]] = []
        self._seconds = 0.0

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around one pass."""
        import torch

        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began
            return
        event: Any = torch.cuda.Event  # which has no types
        began_at, ended_at = event(enable_timing=True), event(enable_timing=True)
        began_at.record()
        yield
        ended_at.record()
        self._events.append((began_at, ended_at))

    def taken(self) -> float:
        """Of all passes since, which are forgotten."""
        seconds, events = self._seconds, self._events
        self._seconds, self._events = 0.0, []
        for _, ended in events[-1:]:
            ended.synchronize()
        return seconds + sum(float(began.elapsed_time(ended)) for began, ended in events) / 1e3


OWN = _Own()


class Comparison:
    """``step`` after each one, on every rank: now and then all of them compare. A ``factor`` of 0 turns it off."""

    def __init__(self, metrics: Path, factor: float) -> None:
        """What is found is written to ``metrics``, too."""
        self._metrics, self._factor, self._steps = metrics, factor, 0

    def step(self, number: int, stage: int = 0) -> None:
        """``number`` of the step that is done; ``stage`` of the pipeline."""
        self._steps += 1
        if not self._factor or self._steps % EVERY:
            return
        seconds, stages = _gathered(OWN.taken() / EVERY, stage)
        slow = slowest(seconds, stages, self._factor) if self._steps > EVERY else None  # the first ones warm up
        if slow is not None:
            self._tell(slow, seconds[slow.rank], number)

    def _tell(self, slow: Slow, seconds: float, number: int) -> None:
        import torch.distributed as dist

        from meshwright.train.metrics import write

        if dist.get_rank() == slow.rank:  # it knows its node
            own = f"its forward passes take {seconds:.3g} s a step, {slow.times:.1f} times its peers'"
            print(f"rank {slow.rank} on {platform.node()} is slow: {own}", flush=True)
        if dist.get_rank() == dist.get_world_size() - 1:
            write(self._metrics, step=number, slow_rank=slow.rank, slow_times=slow.times)


def _gathered(seconds: float, stage: int) -> tuple[list[float], list[int]]:
    """Of every rank, in order."""
    import torch
    import torch.distributed as dist

    device = "cuda" if torch.cuda.is_initialized() else "cpu"  # type: ignore[no-untyped-call]
    own = torch.tensor([seconds, stage], dtype=torch.float64, device=device)
    every = torch.empty(2 * dist.get_world_size(), dtype=torch.float64, device=device)
    dist.all_gather_into_tensor(every, own)
    pairs = every.view(-1, 2).tolist()
    return [pair[0] for pair in pairs], [int(pair[1]) for pair in pairs]


def install(metrics: Path, factor: float) -> None:
    """Have Megatron's ranks compare themselves after their steps."""
    from megatron.core import parallel_state
    from megatron.training import training

    compared, log = Comparison(metrics, factor), training.training_log

    def logged(losses: Any, totals: Any, rate: Any, step: int, *rest: Any, **named: Any) -> Any:
        said = log(losses, totals, rate, step, *rest, **named)
        compared.step(step, parallel_state.get_pipeline_model_parallel_rank())
        return said

    training.training_log = logged
