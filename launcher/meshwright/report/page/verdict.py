"""The first thing a page says of a plan: whether it fits, how fast it is, and what keeps it from being faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshwright.cost.fitting import Fits, fits
from meshwright.report.cost import PARTS
from meshwright.report.page.subject import Subject
from meshwright.report.page.words import gib, percent, seconds
from meshwright.spec.frozen import dataclass

__all__ = ["Verdict", "verdict"]

WORTH = 0.02  # of the step; what takes less is no reason
REASONS = 3

_WORDS: Mapping[Fits, str] = {"likely": "Fits", "about even": "May not fit", "unlikely": "Does not fit"}


@dataclass(frozen=True)
class Verdict:
    """``fits``: whether the fullest rank's peak stays below the limit. ``word`` says it; ``memory``, ``time`` why."""

    fits: Fits
    word: str
    memory: str
    time: str


def verdict(one: Subject) -> Verdict:
    """Of a plan."""
    found = fits(one.cost.fit_probability)
    return Verdict(found, _WORDS[found], _memory(one), _time(one))


def _memory(one: Subject) -> str:
    cost = one.cost
    room = cost.memory_limit - cost.peak_memory
    left = f"{gib(room)} to spare" if room >= 0 else f"{gib(-room)} too much"
    where = f"Stage {cost.fullest}, the fullest, " if len(cost.stages) > 1 else "A GPU "
    return f"{where}needs {gib(cost.peak_memory)} of {gib(cost.memory_limit)} usable: {left}"


def _time(one: Subject) -> str:
    parts = one.summary["cost"]["step_parts_s"]
    working = percent(parts["compute"] / one.cost.step_time, 0)
    lost = ", ".join(_reasons(one))
    rest = f"; the rest is mostly {lost}" if lost else ""
    return f"{seconds(one.cost.step_time)} a step at {percent(one.cost.mfu)} MFU; {working} of it computes{rest}"


def _reasons(one: Subject) -> Iterator[str]:
    """The largest parts of the step in which nothing of the model is computed."""
    parts = {k: v / one.cost.step_time for k, v in one.summary["cost"]["step_parts_s"].items() if k != "compute"}
    for kind, part in sorted(parts.items(), key=lambda pair: -pair[1])[:REASONS]:
        if part >= WORTH:
            yield f"{PARTS[kind].removesuffix(', exposed')} ({percent(part, 0)})"
