"""Curves over a search: step time and memory that nothing beats, scaling over GPU counts, what a budget buys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshwright.cost.memory import GIB
from meshwright.cost.techniques import used
from meshwright.errors import ConfigError, Problem
from meshwright.search.candidate import Candidate, assignments
from meshwright.search.objective import run_days
from meshwright.search.rank import Ranking, budget
from meshwright.spec.frozen import dataclass

__all__ = ["Point", "plot", "row", "scaling", "write_csv"]


@dataclass(frozen=True)
class Point:
    """The best layout on a number of GPUs. ``efficiency`` is tokens per GPU relative to the fewest GPUs.

    ``days`` for the whole run, None where its length is not stated.
    """

    candidate: Candidate
    efficiency: float
    days: float | None


def scaling(ranking: Ranking) -> list[Point]:
    """The best layout for each number of GPUs on which any fits, ascending."""
    chosen = sorted((c for (axis, _), c in ranking.choices.items() if axis == "gpus"), key=lambda c: c.gpus)
    best = [c for c in chosen if c.peak_memory <= budget(c.spec.cluster)]
    return [Point(c, c.tokens_per_gpu / best[0].tokens_per_gpu, _days(c)) for c in best]


def row(candidate: Candidate) -> dict[str, Any]:
    """One layout for machines: its costs, then its keys."""
    t = candidate.spec.training
    return {
        "gpus": candidate.gpus,
        "step_time_s": candidate.step_time,
        "peak_memory_gib": candidate.peak_memory / GIB,
        "tokens_per_s_per_gpu": candidate.tokens_per_gpu,
        "global_batch": t.global_batch,
        "layout": assignments(candidate.spec),
        "techniques": [one.name for one in used(candidate.spec)],
        "parts_s": dict(candidate.parts),
    }


def write_csv(path: Path, ranking: Ranking) -> None:
    """The best layouts, the frontier and the scaling curve, one layout a line, with a ``kind`` for each."""
    import csv

    kinds = {"best": ranking.best, "frontier": ranking.frontier, "scaling": [p.candidate for p in scaling(ranking)]}
    lines = [{"kind": kind, **_flat(row(c))} for kind, found in kinds.items() for c in found]
    names = list(dict.fromkeys(name for line in lines for name in line))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)


def plot(path: Path, ranking: Ranking) -> None:
    """Draw the frontier, and the scaling curve where there are several GPU counts, to a .svg or .png file.

    Raises:
        ConfigError: where matplotlib is not installed, or cannot write such a file.

    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        missing = "needs matplotlib, which is not installed; pip install matplotlib"
        raise ConfigError([Problem("search.plot", missing, "search.plot")]) from None
    points = scaling(ranking)
    figure = Figure(figsize=(11 if len(points) > 1 else 6, 4), layout="constrained")
    panels: Sequence[Any] = figure.subplots(1, 2, squeeze=False)[0] if len(points) > 1 else [figure.subplots()]
    _draw_frontier(panels[0], ranking)
    if len(points) > 1:
        _draw_scaling(panels[1], points)
    try:
        figure.savefig(path)
    except ValueError as error:
        raise ConfigError([Problem("search.plot", f"{path}: {error}", "search.plot")]) from None


def _draw_frontier(panel: Any, ranking: Ranking) -> None:
    for gpus in sorted({c.gpus for c in ranking.frontier}):
        found = [c for c in ranking.frontier if c.gpus == gpus]
        memory, time = [c.peak_memory / GIB for c in found], [c.step_time for c in found]
        panel.step(memory, time, where="post", marker="o", markersize=3, label=f"{gpus:,} GPUs")
    panel.set(xlabel="peak memory (GiB)", ylabel="step time (s)", title="What no other layout beats")
    panel.legend()


def _draw_scaling(panel: Any, points: Sequence[Point]) -> None:
    gpus = [p.candidate.gpus for p in points]
    rates = [p.candidate.tokens_per_gpu * p.candidate.gpus for p in points]
    panel.plot(gpus, rates, marker="o", label="best layout")
    panel.plot(gpus, [rates[0] * n / gpus[0] for n in gpus], linestyle="--", label="ideal")
    panel.set(xlabel="GPUs", ylabel="tokens per second", title="Scaling", xscale="log", yscale="log")
    panel.legend()


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    parts = {f"{name}_s": seconds for name, seconds in line.pop("parts_s").items()}
    layout = {key.rpartition(".")[2]: value for key, value in line.pop("layout").items()}
    line["techniques"] = " ".join(line["techniques"])
    return {**line, **layout, **parts}


def _days(candidate: Candidate) -> float | None:
    training = candidate.spec.training
    if training.steps is None and training.tokens is None:
        return None
    return run_days(candidate.spec, candidate.step_time)
