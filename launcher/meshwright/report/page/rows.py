"""Rows of the tables that templates write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from meshwright.cost import Cost
from meshwright.cost.compute import Roofline, roofline
from meshwright.cost.inputs import scene
from meshwright.layout.grid import Axes
from meshwright.report.cost import PARTS
from meshwright.report.page.charts import kind_name
from meshwright.report.page.subject import Subject
from meshwright.report.page.verdict import verdict
from meshwright.report.page.words import MEMORY, gb, gib, large, literal, percent, seconds
from meshwright.resolver import layout

__all__ = ["ROWS", "operation_rows", "points"]

SHOWN = 0.001  # of the step: less is left out, as in `meshwright plan`


def time_rows(one: Subject) -> list[dict[str, Any]]:
    """What the step's seconds go to, the longest the full bar."""
    parts = one.summary["cost"]["step_parts_s"]
    total, longest = one.cost.step_time, max(parts.values())
    return [
        {
            "kind": kind,
            "name": PARTS[kind],
            "part": value / longest,
            "value": value,
            "key": f"cost.step_parts_s.{kind}",
            "text": seconds(value),
            "note": percent(value / total),
        }
        for kind, value in parts.items()
        if value > SHOWN * total
    ]


def operation_rows(one: Subject) -> Iterator[dict[str, Any]]:
    """A layer of each kind: forward seconds of its operations, in the matrix units and in moving bytes."""
    s = scene(layout(one.plan.spec))
    for kind, operations in zip(s.kinds, s.layers, strict=True):
        yield {"name": kind_name(kind), "rows": _operations({o.name: roofline(s, o) for o in operations})}


def _operations(found: Mapping[str, Roofline]) -> list[dict[str, Any]]:
    """The longest is the full bar."""
    together = {name: float(one.in_units + one.in_moving) for name, one in found.items()}
    longest, total = max(together.values()), sum(together.values())
    return [
        {
            "kind": "compute",
            "name": name,
            "part": float(one.in_units) / longest,
            "moving": float(one.in_moving) / longest,
            "value": together[name],
            "key": None,
            "text": seconds(together[name]),
            "note": percent(together[name] / total),
            "flops": float(one.flops),
            "moved": float(one.moved),
            "rate": float(one.flops) / together[name],
            "intensity": float(one.flops) / float(one.moved),
        }
        for name, one in found.items()
    ]


def traffic_rows(one: Subject) -> list[dict[str, Any]]:
    """What a rank sends, by kind."""
    flows = {f.name: getattr(one.cost.traffic, f.name) for f in fields(one.cost.traffic)}
    sent = {name: flow for name, flow in flows.items() if flow.size}
    most = max((float(flow.size) for flow in sent.values()), default=0)
    return [
        {
            "kind": kind,
            "name": f"{kind} parallel",
            "part": float(flow.size) / most,
            "value": float(flow.size),
            "key": f"cost.traffic_bytes.{kind}",
            "text": gb(float(flow.size)),
            "note": flow.link,
        }
        for kind, flow in sent.items()
    ]


def held(cost: Cost) -> list[str]:
    """The kinds of memory that any stage has something of."""
    return [kind for kind in MEMORY if any(getattr(stage, kind) for stage in cost.stages)]


def stage_rows(one: Subject) -> Iterator[dict[str, float]]:
    """Each stage's seconds: of a micro-batch, of all of them, and the part of the pipeline's time that it waits."""
    of, microbatches = one.timeline, one.plan.batch.microbatches
    for row in of.pipeline.work:
        forward, backward = (sum(float(getattr(work, kind)) for work in row) for kind in ("forward", "backward"))
        busy = microbatches * (forward + backward)
        waiting = max(0.0, 1 - busy / of.schedule.seconds)
        yield {"forward": forward, "backward": backward, "busy": busy, "waiting": waiting}


def axis_rows(one: Subject) -> Iterator[dict[str, Any]]:
    """The groups of ranks along each axis, the experts' after the others'."""
    grid = one.plan.grid
    yield from _axes(grid.dense, grid.gpus_per_node)
    if one.plan.spec.model.moe:
        experts = {axis: size for axis, size in grid.expert.sizes.items() if axis != "pp"}
        yield from (row for row in _axes(grid.expert, grid.gpus_per_node) if row["axis"] in experts)


def _axes(axes: Axes, gpus_per_node: int) -> Iterator[dict[str, Any]]:
    for axis, size in axes.sizes.items():
        stride = axes.strides[axis]
        near = min(size, -(-gpus_per_node // stride))
        first = [i * stride for i in range(min(size, 4))]
        text = ", ".join(f"{rank:,}" for rank in first) + (f" … {(size - 1) * stride:,}" if size > 4 else "")
        yield {
            "axis": axis,
            "size": size,
            "groups": axes.world // size,
            "stride": stride,
            "near": near,
            "first": text,
        }


def outcome_rows(subjects: Sequence[Subject]) -> Iterator[dict[str, Any]]:
    """What the differences come to: whether each fits, then numbers, the best marked, with changes from the first."""
    yield {"name": "memory", "cells": [_fitting(one) for one in subjects]}
    for name, value, text, better in _OUTCOMES:
        found = [value(one) for one in subjects]
        best = better(found) if better and len(set(found)) > 1 else None
        yield {"name": name, "cells": [_cell(text(each), each == best, _change(each, found[0])) for each in found]}


def part_rows(subjects: Sequence[Subject]) -> Iterator[dict[str, Any]]:
    """Seconds of each step by what they go to, a row a part that any step has."""
    steps = [one.summary["cost"]["step_parts_s"] for one in subjects]
    for kind, name in PARTS.items():
        if any(step[kind] for step in steps):
            yield {"name": name, "cells": [seconds(step[kind]) if step[kind] else "–" for step in steps]}


def _cell(text: str, best: bool, change: str) -> dict[str, str]:
    return {"text": text, "kind": "best" if best else "", "change": change}


def _fitting(one: Subject) -> dict[str, str]:
    """Whether it fits, and how sure that is."""
    found = verdict(one)
    kind = {"likely": "best", "about even": "even", "unlikely": "worst"}[found.fits]
    return {"text": found.word.lower(), "kind": kind, "change": percent(one.cost.fit_probability, 0)}


_Better = Callable[[list[float]], float]
_OUTCOMES: Sequence[tuple[str, Callable[[Subject], float], Callable[[float], str], _Better | None]] = (
    ("peak memory", lambda one: one.cost.peak_memory, gib, min),
    ("GPUs", lambda one: one.plan.grid.world, lambda n: f"{n:,.0f}", None),
    ("step", lambda one: one.cost.step_time, seconds, min),
    ("tokens/s", lambda one: one.cost.tokens_per_second, large, max),
    ("tokens/s/GPU", lambda one: one.cost.tokens_per_second / one.plan.grid.world, large, max),
    ("MFU", lambda one: one.cost.mfu, percent, max),
)


def _change(value: float, first: float) -> str:
    change = f"{value / first - 1:+.1%}" if first else ""
    return "" if change in ("+0.0%", "-0.0%") else change


def layout_rows(search: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The layouts of a search's answer: the best, the frontier, and the best one for every other value."""
    for place, row in enumerate(search["best"], 1):
        yield {**row, "kind": f"place {place}", "why": "chosen" if place == 1 else "", "words": _layout(row)}
    for row in (row for row in search["frontier"] if row not in search["best"]):
        yield {**row, "kind": "frontier", "why": "", "words": _layout(row)}
    for row in search["choices"]:
        yield {**row, "kind": f"{row['axis']} {row['value']}", "why": "; ".join(row["reasons"]), "words": _layout(row)}


def points(search: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layouts of a search's answer as dots, the best drawn last."""
    kinds = {"other values": search["choices"], "frontier": search["frontier"], "best": search["best"]}
    kept = ("step_time_s", "peak_memory_gib")
    return [
        {"kind": kind, "words": _layout(row), **{key: row[key] for key in kept}}
        for kind, rows in kinds.items()
        for row in rows
    ]


def _layout(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{path.rpartition('.')[2]} {literal(value)}" for path, value in row["layout"].items())


ROWS: Mapping[str, Callable[..., Any]] = {
    "axis_rows": axis_rows,
    "held": held,
    "layout_rows": layout_rows,
    "operation_rows": operation_rows,
    "outcome_rows": outcome_rows,
    "part_rows": part_rows,
    "stage_rows": stage_rows,
    "time_rows": time_rows,
    "traffic_rows": traffic_rows,
}
"""By the names that templates use."""
