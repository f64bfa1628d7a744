"""What a run did of late that somebody should look at: its loss is no number or jumped, a rank is slow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from statistics import median
from typing import Any

__all__ = ["slow_ranks", "told"]

BEFORE, RECENT = 20, 200  # steps
FAR, LEAST = 8.0, 0.1  # ours: times the usual distance from the median before it, and part of that median


def told(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Since when the loss of ``metrics.jsonl`` is no number, and the highest of its spikes in the last RECENT steps."""
    known = [(line["step"], float(line["loss"])) for line in lines if isinstance(line.get("loss"), int | float)]
    broken = [step for step, loss in known if not isfinite(loss)]
    if broken:
        yield f"loss: no number in {len(broken):,} steps, first in step {broken[0]:,}; go back before it"
    spikes = list(_spikes([(step, loss) for step, loss in known if isfinite(loss)][-RECENT - BEFORE :]))
    if spikes:
        loss, step, usual = max(spikes)
        yield f"loss: {loss:.4g} in step {step:,}, {usual:.4g} before it; {len(spikes)} such steps of the last {RECENT}"


def slow_ranks(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rank that was named most often in the last RECENT steps (train.slow_rank)."""
    last = max((line["step"] for line in lines), default=0)
    told = [line for line in lines if "slow_rank" in line and line["step"] > last - RECENT]
    ranks = [line["slow_rank"] for line in told]
    if ranks:
        rank = max(ranks, key=ranks.count)
        times = median(float(line["slow_times"]) for line in told if line["slow_rank"] == rank)
        often = f"{ranks.count(rank)} times in the last {RECENT} steps"
        said = f"its forward passes take {times:.1f} times its peers'"
        yield f"rank {rank} is slow: {said} ({often}); its log names the node"


def _spikes(known: Sequence[tuple[int, float]]) -> Iterator[tuple[float, int, float]]:
    for place in range(BEFORE, len(known)):
        step, loss = known[place]
        before = [value for _, value in known[place - BEFORE : place]]
        usual = median(before)
        distance = median(abs(value - usual) for value in before)
        if loss - usual > max(FAR * distance, LEAST * abs(usual)):
            yield loss, step, usual
