"""What plan.json of a run folder predicts, and where what was measured parts from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshwright.jobs.damaged import json_object
from meshwright.spec.frozen import dataclass
from meshwright.train.metrics import Measured

__all__ = ["GIB", "Planned", "Predicted", "planned", "published_mfu", "surprises"]

GIB = 2**30


@dataclass(frozen=True)
class Predicted:
    """What the plan expects, each with the interval in which 80 % of measurements would lie. None: not known."""

    step_time_s: float | None = None
    step_time_80_s: tuple[float, float] | None = None
    peak_memory: float | None = None  # bytes
    peak_memory_80: tuple[float, float] | None = None


@dataclass(frozen=True)
class Planned:
    """What status needs of plan.json. ``mfu_of_a_token``: the MFU of one token a second, by the prediction."""

    name: str
    variant: str | None = None
    stage: str | None = None
    steps: int | None = None
    mfu: float | None = None
    mfu_of_a_token: float | None = None
    tokens: int = 0  # of a step
    predicted: Predicted = Predicted()


def planned(path: Path) -> Planned:
    """As ``compile`` wrote it.

    Raises:
        KeyError: where it lacks one of them.
        ValueError: where it is no JSON object, or a number is none.
        OSError: where it cannot be read.

    """
    told = json_object(path)
    variant, stage, steps, cost = told.get("variant"), told["stage"], told["steps"], told["cost"]
    mfu = float(cost["mfu"])
    return Planned(
        name=str(told["name"]),
        variant=None if variant is None else str(variant),
        stage=None if stage is None else str(stage),
        steps=None if steps is None else int(steps),
        mfu=mfu,
        mfu_of_a_token=mfu / float(cost["tokens_per_second"]),
        tokens=int(told["batch"]["tokens"]),
        predicted=_predicted(cost),
    )


def _predicted(cost: Mapping[str, Any]) -> Predicted:
    def interval(name: str) -> tuple[float, float]:
        low, high = cost[name]
        return float(low), float(high)

    return Predicted(
        float(cost["step_time_s"]),
        interval("step_time_80_s"),
        float(cost["peak_memory_bytes"]),
        interval("peak_memory_80_bytes"),
    )


def surprises(predicted: Predicted, steady: Measured) -> Iterator[str]:
    """What was measured outside the interval of its prediction."""
    for name, found, wanted, interval, unit, scale in (
        ("step time", steady.step_time, predicted.step_time_s, predicted.step_time_80_s, "s", 1.0),
        ("peak memory", steady.allocated, predicted.peak_memory, predicted.peak_memory_80, "GiB", GIB),
    ):
        if found is None or wanted is None or interval is None or interval[0] <= found <= interval[1]:
            continue
        low, high = (bound / scale for bound in interval)
        yield f"{name} {found / scale:.3g} {unit}, {found / wanted - 1:+.0%} (80 %: {low:.3g} to {high:.3g})"


def published_mfu(name: str, part: str | None) -> float | None:
    """The MFU that the recipe's authors claim for the stage or variant, else for the run."""
    from meshwright.library import files as library

    if name not in library.names():
        return None
    records = {record.stage or record.variant: record for record in library.recipe(name).records}
    for record in (records.get(part), records.get(None)):
        if record is not None and "mfu" in record.claims:
            return float(record.claims["mfu"].value)
    return None
