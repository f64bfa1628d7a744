"""The numbers that a page's scripts draw, as JSON knows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from math import exp, isfinite
from typing import Any

from meshwright.cost.compute import Roofline, roofline
from meshwright.cost.inputs import scene
from meshwright.cost.memory import GIB, Memory
from meshwright.cost.schedule import Pass
from meshwright.cost.time import StageTime
from meshwright.layout.grid import Axes, Grid
from meshwright.layout.plan import Plan, Stage
from meshwright.model.kinds import count_kinds, kinds
from meshwright.model.layers.part import NONE, LayerKind
from meshwright.report.page.subject import Measured, Subject
from meshwright.resolver import layout

__all__ = ["MOST_PASSES", "data", "kind_name", "layers", "memory", "ranks", "rooflines", "schedule"]

MOST_PASSES = 100_000
"""Drawn on one page; about a tenth of a megabyte, packed."""


def data(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """What is drawn of each subject. A schedule that would make the page too large is None."""
    left, drawn = MOST_PASSES, []
    for one in subjects:
        count = sum(map(len, one.timeline.schedule.stages))
        left -= count
        drawn.append({**_data(one), "schedule": schedule(one) if left >= 0 else None})
    return drawn


def _data(one: Subject) -> dict[str, Any]:
    return {
        "ranks": ranks(one.plan.grid),
        "memory": memory(one),
        "layers": layers(one.plan),
        "roofline": rooflines(one),
        "measured": None if one.measured is None else measured(one.measured, one),
    }


def ranks(grid: Grid) -> dict[str, Any]:
    """Both numberings of the ranks, the fastest axis first: the page does the arithmetic, so no rank is listed."""
    return {
        "world": grid.world,
        "gpus_per_node": grid.gpus_per_node,
        "dense": _axes(grid.dense),
        "expert": _axes(grid.expert) if grid.ep * grid.etp > 1 else [],
    }


def _axes(axes: Axes) -> list[tuple[str, int, int]]:
    """Name, size, stride."""
    return [(axis, size, axes.strides[axis]) for axis, size in axes.sizes.items()]


def schedule(one: Subject) -> dict[str, Any]:
    """Each stage's passes as pairs: a number for what it is, and microseconds since the last one began.

    The number is ``2 * (micro-batch * chunks + chunk) + backward``. Seconds of passes are by stage, chunk and kind,
    ``recompute`` those of a backward that repeat the forward. Moments behind the fold are moved before it.
    """
    of = one.timeline
    fold, passes = of.schedule.fold, of.schedule.stages
    return {
        "passes": [_coded(stage, len(of.pipeline.work[i]), _cut(one, i)) for i, stage in enumerate(passes)],
        "seconds": [[[float(w.forward), float(w.backward)] for w in row] for row in of.pipeline.work],
        "recompute": [[_repeated(time) for time in chunks] for chunks in of.pipeline.times],
        "ending": [[part.kind, part.start - fold.seconds, part.end - fold.seconds] for part in of.ending()],
        "fold": {"microbatches": fold.microbatches, "seconds": fold.seconds, "passes": fold.passes},
        "microbatches": one.plan.batch.microbatches,
        "total": of.seconds,
    }


def _cut(one: Subject, stage: int) -> tuple[int, float]:
    """How many passes a stage has before the fold, and by how many seconds those behind it are moved."""
    fold = one.timeline.schedule.fold
    return (fold.passes[stage], fold.seconds) if fold.microbatches else (2**62, 0.0)


def _coded(passes: Sequence[Pass], chunks: int, cut: tuple[int, float]) -> list[int]:
    coded, last = [], 0
    for i, one in enumerate(passes):
        start = round(1e6 * (one.start - (cut[1] if i >= cut[0] else 0.0)))
        coded += [2 * (one.microbatch * chunks + one.chunk) + (one.kind == "backward"), start - last]
        last = start
    return coded


def memory(one: Subject) -> dict[str, Any]:
    """GiB by stage and kind; what 80 % of measured peaks lie between, relative to ours."""
    stages = [{f.name: float(getattr(stage, f.name)) / GIB for f in fields(Memory)} for stage in one.cost.stages]
    return {"stages": stages, "limit": one.cost.memory_limit / GIB, "spread": exp(one.cost.memory_spread)}


def layers(plan: Plan) -> dict[str, Any]:
    """What each stage holds: layers by kind, and what stands at the model's ends."""
    names = {kind: kind_name(kind) for kind in kinds(plan.spec.model)}
    return {"kinds": list(names.values()), "stages": [dict(_layers(plan, stage, names)) for stage in plan.stages]}


def kind_name(kind: LayerKind) -> str:
    """The parts of a layer in words."""
    return ", ".join(part for part in (kind.mixer, kind.ffn) if part != NONE).replace("_", " ")


def _layers(plan: Plan, stage: Stage, names: Mapping[LayerKind, str]) -> Iterator[tuple[str, int]]:
    counts = [count_kinds(plan.spec.model, chunk.first, chunk.layers) for chunk in stage.chunks]
    yield "embedding", sum(chunk.embedding for chunk in stage.chunks)
    for kind, name in names.items():
        yield name, sum(count.get(kind, 0) for count in counts)
    yield "multi-token prediction", sum(chunk.mtp for chunk in stage.chunks)
    yield "loss", sum(chunk.loss for chunk in stage.chunks)


def rooflines(one: Subject) -> dict[str, Any]:
    """Each operation of a layer by kind: FLOPs for a byte moved, FLOP/s, seconds; the GPU's own two limits.

    What multiplies nothing is left out: it is limited by the memory alone. Kinds of layers share operations.
    """
    s = scene(layout(one.plan.spec))
    found = {o.name: roofline(s, o) for operations in s.layers for o in operations}
    e, gpu = s.layout.cluster.efficiency, s.layout.cluster.accelerator
    return {
        "points": [_point(name, of) for name, of in found.items() if of.flops],
        "peak": float(max(of.peak for of in found.values())),
        "bandwidth": gpu.memory_bandwidth_gb_s * 1e9,
        "reached": [e.matmul, e.memory],
    }


def _point(name: str, of: Roofline) -> dict[str, Any]:
    taken = float(of.in_units + of.in_moving)
    kind = "attention.core" if name == "attention.core" else name.partition(".")[0]
    rates = {"intensity": float(of.flops / of.moved), "rate": float(of.flops) / taken}
    return {"name": name, "kind": kind.replace("_", " "), "seconds": taken, **rates}


def _repeated(time: StageTime) -> float:
    """The part of a backward in which the forward is computed again."""
    return float(time.recompute / time.backward) if time.backward else 0.0


def measured(run: Measured, one: Subject) -> dict[str, Any]:
    """Loss and step time of every step that says them; the predicted step time beside them."""
    points = [[line["step"], _finite(line.get("loss")), _finite(line.get("step_time_s"))] for line in run.lines]
    return {"points": points[:: max(1, len(points) // 2000)], "predicted": one.cost.step_time}


def _finite(value: object) -> float | None:
    """A number that JSON can say; a loss that overflowed is a gap."""
    return float(value) if isinstance(value, int | float) and isfinite(value) else None
