"""A measured step beside the simulated one in one trace: torch's profile of one rank of each stage.

Both begin at 0: the simulated step with its first forward, a profile with the first step that it holds. What the
profiler recorded before that is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from meshwright.jobs.profiles import Profile
from meshwright.layout.plan import Plan

__all__ = ["beside"]

STEP = re.compile(r"(?:ProfilerStep#|step )\d+")
"""A step as torch's schedule names it, and as our programs do."""

PER_STAGE = 1000  # numbers of processes; no profile of a rank has as many


def beside(document: Mapping[str, Any], measured: Iterable[Profile], plan: Plan) -> dict[str, Any]:
    """The trace of a simulated step with the profile of the lowest rank of each stage that has one."""
    chosen: dict[int, Profile] = {}
    for one in sorted(measured, key=lambda one: one.rank):
        if one.rank < plan.grid.world:
            chosen.setdefault(plan.grid.dense.coordinates(one.rank)["pp"], one)
    simulated = [_predicted(event) for event in document["traceEvents"]]
    order = [_sorted(stage, PER_STAGE * stage) for stage in range(plan.grid.pp)]
    found = [event for stage, one in sorted(chosen.items()) for event in _events(one, stage)]
    said = {str(one.path): f"stage {stage}, rank {one.rank}" for stage, one in sorted(chosen.items())}
    return {
        **document,
        "traceEvents": [*simulated, *order, *found],
        "otherData": {**document["otherData"], "measured": said},
    }


def _predicted(event: Mapping[str, Any]) -> dict[str, Any]:
    if event["name"] != "process_name":
        return dict(event)
    return {**event, "args": {"name": f"predicted, {event['args']['name']}"}}


def _sorted(process: int, place: int) -> dict[str, Any]:
    return {"name": "process_sort_index", "ph": "M", "pid": process, "tid": 0, "args": {"sort_index": place}}


def _events(one: Profile, stage: int) -> Iterator[dict[str, Any]]:
    """A profile's events with processes of their own, behind the stage's simulated one, and times since its step."""
    begin, numbers = _begin(one.events), _numbers(one.events)
    labels = {e["pid"]: e["args"]["labels"] for e in one.events if e.get("name") == "process_labels"}
    for event in one.events:
        process = PER_STAGE * (stage + 1) + numbers[event.get("pid")]
        moved = {**event, "pid": process, "tid": event.get("tid", 0)}
        if event["ph"] == "M":
            yield from _named(moved, event, one.rank, stage, labels)
        elif event["ts"] >= begin:
            flow = {"id": f"{one.rank}-{event['id']}"} if "id" in event else {}  # joins events of one file alone
            yield {**moved, **flow, "ts": round(event["ts"] - begin, 3)}


def _named(
    moved: Mapping[str, Any], event: Mapping[str, Any], rank: int, stage: int, labels: Mapping[Any, str]
) -> Iterator[dict[str, Any]]:
    """A process says whose it is and that it was measured, and stands behind the stage's simulated one."""
    if event["name"] == "process_name":
        label = labels.get(event["pid"], event["pid"])
        name = f"measured, stage {stage}, rank {rank}: {event['args']['name']} ({label})"
        yield {**moved, "args": {"name": name}}
        yield _sorted(moved["pid"], PER_STAGE * stage + moved["pid"] % PER_STAGE + 1)
    elif event["name"].startswith("thread_"):
        yield dict(moved)


def _begin(events: Sequence[Mapping[str, Any]]) -> float:
    """Microseconds at which the first step begins; where none is marked, the first event."""
    spans = [event for event in events if event["ph"] == "X"]
    steps = [event["ts"] for event in spans if STEP.fullmatch(str(event.get("name")))]
    return float(min(steps or (event["ts"] for event in spans), default=0.0))


def _numbers(events: Sequence[Mapping[str, Any]]) -> dict[Any, int]:
    """Of a file's processes, which are numbers or words, in the order in which they appear."""
    found = dict.fromkeys(event.get("pid") for event in events)
    return {process: i for i, process in enumerate(found)}
