"""Charts of one plan as pictures for papers and slides: .svg, the same bytes each time, or .png."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwright.cost.schedule import Pass
from meshwright.errors import ConfigError, Problem
from meshwright.report.cost import PARTS
from meshwright.report.page.charts import memory, rooflines
from meshwright.report.page.subject import Subject
from meshwright.report.page.words import MEMORY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CHARTS", "draw"]

WIDTH = 10.0  # inches


def draw(chart: str, one: Subject, path: Path) -> None:
    """Write ``chart``, one of ``CHARTS``, to ``path``, whose ending names the format.

    Raises:
        ConfigError: where matplotlib is not installed.

    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        missing = "a picture needs matplotlib, which is not installed; pip install matplotlib, or set format=html"
        raise ConfigError([Problem("format", missing, "report.format")]) from None
    with rc_context({"svg.hashsalt": "meshwright", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(WIDTH, 4), layout="constrained")
        axes = figure.subplots()
        CHARTS[chart](axes, one)
        axes.spines[["top", "right"]].set_visible(False)
        _titled(figure, axes, one)
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _titled(figure: Figure, axes: Axes, one: Subject) -> None:
    """The plan and its layout above, what the colours mean below; a name's dollar signs are no mathematics."""
    kept = ("tp", "gtp", "pp", "vpp", "cp", "dp", *(("ep", "etp", "egtp") if one.plan.spec.model.moe else ()))
    degrees = ", ".join(f"{axis} {size}" for axis, size in one.summary["degrees"].items() if axis in kept and size > 1)
    axes.set_title(f"{one.title[:80]}: {degrees}".replace("$", r"\$"), loc="left", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=min(6, len(labels)), frameon=False, fontsize=8)


def _timeline(axes: Axes, one: Subject) -> None:
    """Passes by stage, later chunks lighter; what is folded away is left out of the axis, too."""
    of, fold = one.timeline, one.timeline.schedule.fold
    for kind in ("forward", "backward"):
        for stage in range(len(of.schedule.stages)):
            spans, shades = _spans(one, stage, kind)
            axes.broken_barh(spans, (stage - 0.45, 0.9), facecolors=shades, linewidth=0)
        axes.bar(0, 0, color=colours()[f"c-{kind}"], label=kind)  # for the legend: the spans have many shades
    for part in of.ending():
        span, high = (part.start - fold.seconds, part.end - part.start), (-0.45, len(of.schedule.stages) - 0.1)
        axes.broken_barh([span], high, facecolors=colours()[f"c-{part.kind}"], label=PARTS[part.kind], linewidth=0)
    if fold.microbatches:
        _fold(axes, one)
    left_out = ", without what is left out" if fold.microbatches else ""
    axes.set(xlabel=f"seconds{left_out}", ylabel="stage", xlim=(0, of.seconds - fold.seconds))
    axes.set_ylim(len(of.schedule.stages) - 0.5, -0.5)
    axes.locator_params(axis="y", integer=True)


def _spans(one: Subject, stage: int, kind: str) -> tuple[list[tuple[float, float]], list[Any]]:
    """Start and length of a stage's passes of a kind, and their colours; between two of them is a gap of a 25th."""
    from matplotlib.colors import to_rgba

    found = [(each, moved) for each, moved in _moved(one, stage) if each.kind == kind]
    chunks = len(one.plan.stages[stage].chunks)
    spans = [(each.start - moved, 0.96 * (each.end - each.start)) for each, moved in found]
    return spans, [to_rgba(colours()[f"c-{kind}"], 1 - 0.55 * each.chunk / chunks) for each, _ in found]


def _moved(one: Subject, stage: int) -> Iterator[tuple[Pass, float]]:
    """A stage's passes, and by how many seconds each is drawn earlier than it is."""
    fold, passes = one.timeline.schedule.fold, one.timeline.schedule.stages[stage]
    before = fold.passes[stage] if fold.microbatches else len(passes)
    for i, each in enumerate(passes):
        yield each, 0.0 if i < before else fold.seconds


def _fold(axes: Axes, one: Subject) -> None:
    schedule, fold = one.timeline.schedule, one.timeline.schedule.fold
    ends = [passes[count - 1].end for passes, count in zip(schedule.stages, fold.passes, strict=True)]
    words = f"{fold.microbatches:,} micro-batches like these left out, {fold.seconds:.3g} s"
    axes.plot(ends, range(len(ends)), color=colours()["text"], linestyle="--", linewidth=1, label=words)


def _memory(axes: Axes, one: Subject) -> None:
    """GiB by stage and kind, the limit, and the interval of what would be measured."""
    told = memory(one)
    stages = range(len(told["stages"]))
    below = [0.0] * len(stages)
    for kind, name in MEMORY.items():
        here = [stage[kind] for stage in told["stages"]]
        if any(here):
            axes.bar(stages, here, bottom=below, width=0.85, color=colours()[f"c-{kind}"], label=name)
            below = [under + more for under, more in zip(below, here, strict=True)]
    low, high = ([total * part for total in below] for part in (1 - 1 / told["spread"], told["spread"] - 1))
    axes.errorbar(stages, below, yerr=(low, high), fmt="none", ecolor=colours()["text"], linewidth=1, label="80 %")
    axes.axhline(told["limit"], color=colours()["bad"], label=f"{told['limit']:.1f} GiB usable")
    axes.set(xlabel="stage", ylabel="GiB on one rank")
    axes.locator_params(axis="x", integer=True)


def _ranks(axes: Axes, one: Subject) -> None:
    """Nodes to the right, the GPUs of each downwards, coloured by the pipeline stage; a line a stage where it fits."""
    grid = one.plan.grid
    gpus, nodes = grid.gpus_per_node, grid.nodes
    across = max(1, nodes // grid.pp) if nodes // grid.pp >= 8 else min(nodes, 64)
    lines = -(-nodes // across)
    rows = [(line, row) for line in range(lines) for row in range(gpus)]
    cells = [[_stage(one, line, row, node, across) for node in range(across)] for line, row in rows]
    axes.imshow(cells, cmap="viridis", interpolation="nearest", aspect="auto", vmin=0, vmax=max(1, grid.pp - 1))
    for line in range(1, lines):
        axes.axhline(line * gpus - 0.5, color="white", linewidth=1)
    axes.set(xlabel="node of the line", ylabel="first rank of the line")
    axes.set_yticks([line * gpus for line in range(lines)], [f"{line * across * gpus:,}" for line in range(lines)])


def _stage(one: Subject, line: int, row: int, node: int, across: int) -> float:
    """The pipeline stage of a GPU; not a number where there is none."""
    grid = one.plan.grid
    rank = (line * across + node) * grid.gpus_per_node + row
    return grid.dense.coordinates(rank)["pp"] if rank < grid.world else float("nan")


def _roofline(axes: Axes, one: Subject) -> None:
    """What operations compute for each byte, and how fast, under what the GPU can and what it was measured to reach."""
    told = rooflines(one)
    peak, bandwidth, points = told["peak"], told["bandwidth"], told["points"]
    kinds = list(dict.fromkeys(point["kind"] for point in points))
    most, ends = max(point["seconds"] for point in points), [peak / bandwidth, *(p["intensity"] for p in points)]
    low, high = min(ends) / 2.5, max(ends) * 2.5
    for name, line, units, moving in (("the GPU's limits", "-", 1.0, 1.0), ("reached", "--", *told["reached"])):
        bend = [low, units * peak / (moving * bandwidth), high]
        roof = [min(units * peak, x * moving * bandwidth) / 1e12 for x in bend]
        axes.plot(bend, roof, line, color=colours()["text"], linewidth=1, label=name)
    for kind, colour in zip(kinds, cycle(ROOFS)):  # colours begin anew
        here = [point for point in points if point["kind"] == kind]
        x, y = [point["intensity"] for point in here], [point["rate"] / 1e12 for point in here]
        axes.scatter(x, y, [200 * p["seconds"] / most + 10 for p in here], colours()[colour], label=kind, zorder=3)
    axes.set(xscale="log", yscale="log", xlabel="FLOP for each byte moved", ylabel="TFLOP/s of one GPU")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")


ROOFS = ("c-compute", "c-tensor", "c-pipeline", "c-expert", "c-recompute", "c-context", "c-data")
"""Colours of kinds of operations, as charts.js gives them."""

CHARTS: Mapping[str, Callable[[Any, Subject], None]] = {
    "timeline": _timeline,
    "memory": _memory,
    "ranks": _ranks,
    "roofline": _roofline,
}
"""By the names that ``chart`` takes."""


@cache
def colours() -> Mapping[str, str]:
    """The page's own, by the names that its style gives them, as on paper."""
    style = files("meshwright.report.page").joinpath("assets", "page.css").read_text("utf-8")
    return dict(re.findall(r"--([\w-]+): light-dark\((#\w+),", style))
