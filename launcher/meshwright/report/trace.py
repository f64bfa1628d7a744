"""A step as trace events, which Perfetto and chrome://tracing open.

A process is a pipeline stage (any of its ranks), its threads are computing and each kind of exposed communication.
The format: "Trace Event Format", complete events (``ph: X``), microseconds. Nanoseconds are whole here, so that what
lies within an event ends with it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from meshwright.cost.schedule import Pass
from meshwright.cost.timeline import Part, Timeline
from meshwright.cost.traffic import Traffic
from meshwright.layout.plan import Plan

__all__ = ["THREADS", "trace", "write_trace"]

THREADS = {
    "compute": "compute",
    "tensor": "tensor parallel, exposed",
    "expert": "expert all-to-all, exposed",
    "context": "context parallel, exposed",
    "pipeline": "sends between stages, exposed",
    "data": "gradients and parameters, exposed",
    "offload": "host and disks, exposed",
}
"""By kind of communication; recomputation and the optimizer are computing."""

_TIDS = {kind: i for i, kind in enumerate(THREADS)}


def trace(of: Timeline, traffic: Traffic) -> dict[str, Any]:
    """Every event of the step. Arguments: numbers of chunk and micro-batch, layers, tokens; bytes of the whole step."""
    flows = _flows(traffic)
    stages = range(len(of.schedule.stages))
    events = [event for stage in stages for event in (*_names(of.plan, stage), *_events(of, stage, flows))]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "run": of.plan.spec.name,
            "stage of the run": of.plan.spec.stage,
            "seconds": of.seconds,
            "what": "simulated; exposed communication is drawn at the end of the pass whose layers it is spread over",
        },
    }


def write_trace(path: Path, document: Mapping[str, Any]) -> None:
    """Into ``path``, compressed where it ends in ``.gz``; the same bytes each time."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def _events(of: Timeline, stage: int, flows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for one in of.schedule.stages[stage]:
        yield _event(
            stage, f"{one.kind} {one.microbatch}", "compute", one.start, one.end, _of_pass(of.plan, stage, one)
        )
        for part in of.parts(stage, one):
            yield _part(stage, part, flows)
    for part in of.ending():
        yield _part(stage, part, flows)


def _of_pass(plan: Plan, stage: int, one: Pass) -> dict[str, Any]:
    tokens = plan.batch.micro_batch * plan.batch.sequence
    layers = plan.stages[stage].chunks[one.chunk].layers
    return {"micro-batch": one.microbatch, "chunk": one.chunk, "layers": layers, "tokens": tokens}


def _part(stage: int, part: Part, flows: Mapping[str, Any]) -> dict[str, Any]:
    return _event(stage, part.kind, part.kind, part.start, part.end, flows.get(part.kind, {}))


def _event(
    stage: int, name: str, thread: str, start: float, end: float, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    first, last = round(start * 1e9), round(end * 1e9)
    where = {"pid": stage, "tid": _TIDS.get(thread, 0)}
    return {"name": name, "ph": "X", **where, "ts": first / 1e3, "dur": (last - first) / 1e3, "args": arguments}


def _names(plan: Plan, stage: int) -> Iterator[dict[str, Any]]:
    held = plan.stages[stage]
    yield _name("process_name", stage, f"stage {stage}: {held.layers} layers, {held.parameters:,} parameters a rank")
    for thread, name in THREADS.items():
        yield _name("thread_name", stage, name, _TIDS[thread])


def _name(what: str, stage: int, name: str, thread: int = 0) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": stage, "tid": thread, "args": {"name": name}}


def _flows(traffic: Traffic) -> dict[str, dict[str, Any]]:
    """What one rank of the stage that sends most sends in the step, by kind."""
    found = {field.name: getattr(traffic, field.name) for field in fields(traffic)}
    return {
        kind: {"bytes in the step": float(flow.size), "collective": flow.collective, "link": flow.link}
        for kind, flow in found.items()
        if flow.size
    }
