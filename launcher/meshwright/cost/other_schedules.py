"""What schedules that no backend here runs would make of a plan's step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.cost.compute import weight_gradients
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.techniques import SAID
from meshwright.cost.time import StageTime, Step, sends, times_of_one
from meshwright.cost.zero_bubble import Split, dual_pipe, zb_h1, zb_v

__all__ = ["other_schedules"]


def other_schedules(s: Scene, loads: Sequence[Load], step: Step, microbatches: int) -> Iterator[str]:
    """A line where the bubble is worth one: the seconds of those that would shorten the step."""
    total = float(step.total)
    if len(loads) == 1 or float(step.bubble) < SAID * total:
        return
    outside = float(step.data + step.optimizer + step.offload)
    worth = (1 - SAID) * total - outside
    shorter = {name: pair for name, pair in _seconds(s, loads, microbatches, worth).items() if pair[0] < worth}
    if shorter:
        said = ", ".join(
            f"{name} would take {seconds + outside:.3g} s with a bubble of {bubble / (seconds + outside):.1%}"
            for name, (seconds, bubble) in shorter.items()
        )
        yield f"the bubble is {float(step.bubble) / total:.0%} of {total:.3g} s: {said}; no backend here runs it"


def _seconds(s: Scene, loads: Sequence[Load], m: int, worth: float) -> dict[str, tuple[float, float]]:
    """Of the micro-batches alone, and those that the busiest stage waits; infinite where not under ``worth``."""
    times = times_of_one(s, loads)
    weights = [weight_gradients(s, layer) for layer in s.layers]
    splits = [_split(time, float(load.total(weights))) for time, load in zip(times, loads, strict=True)]
    hidden = s.layout.cluster.efficiency.overlap * max(float(sum(time.expert)) for time in times)
    latency = float(sends(s)[1])
    busy = m * max(split.total for split in splits)
    found = {
        "ZB-H1": (zb_h1(splits, m, latency, worth), busy),
        "ZB-V": (zb_v(splits, m, latency, worth), busy),
        "DualPipe": (dual_pipe(splits, m, hidden), busy - m * hidden),
    }
    return {name: (seconds, seconds - working) for name, (seconds, working) in found.items()}


def _split(time: StageTime, weights: float) -> Split:
    return Split(float(time.forward), float(time.backward) - weights, weights)
