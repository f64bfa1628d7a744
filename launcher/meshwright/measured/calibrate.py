"""Fit a cluster's efficiency constants to measured step times.

Least absolute relative error in the constants' logarithms, by Gauss-Newton steps with reweighting; a weak prior holds
constants that the rows say nothing about at their start. Every step evaluates all rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from math import exp
from typing import TYPE_CHECKING, Any

from meshwright.cost.inputs import Scene, scene
from meshwright.cost.stage_loads import Stages, stages_of
from meshwright.cost.time import step
from meshwright.measured.gpu_names import same_gpu
from meshwright.measured.predict import stack
from meshwright.measured.rows import Row
from meshwright.spec import Cluster, Efficiency
from meshwright.spec.frozen import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["BOUNDS", "START", "Fit", "as_yaml", "cluster_rows", "fit", "left_out", "predict_times", "scenes"]

BOUNDS: Mapping[str, tuple[float, float]] = {
    # an A100's best product runs at 0.859 of its peak (stas00/ml-engineering, "Maximum Achievable Matmul FLOPS"); it
    # moves bytes for a tenth of that time, which are counted apart here
    "matmul": (0.3, 0.89),
    "attention": (0.1, 0.9),
    "memory": (0.2, 0.95),
    "intra_link": (0.1, 0.9),
    "inter_link": (0.03, 0.9),
    "launch_us": (0.5, 200.0),
    "kernel_us": (0.2, 50.0),
    "overlap": (0.01, 1.0),
    "step_ms": (0.1, 200.0),
}
START = Efficiency(matmul=0.85, attention=0.5, intra_link=0.7, inter_link=0.6, launch_us=20.0)
"""Where fits begin, and what the prior pulls to."""

_SMOOTH = 0.03  # relative errors below this count quadratically
_PRIOR = 1.0  # weight of the prior, in rows; with it groups that are kept out are met better than with 0.1 or 10


@dataclass(frozen=True)
class Fit:
    """Fitted constants and, row by row, predicted over measured time less one."""

    efficiency: Efficiency
    errors: Array


Scenes = list[tuple[list[int], Scene, Stages]]


def scenes(rows: Sequence[Row]) -> Scenes:
    """All that a step of the rows depends on beside a machine's constants, with the rows' positions."""
    each = ((members, scene(layout, framework)) for members, layout, framework in stack(rows))
    return [(members, s, stages_of(s)) for members, s in each]


def predict_times(rows: Scenes, count: int, efficiency: Efficiency | None = None) -> Array:
    """Seconds a step of ``count`` rows, with each row's own cluster or with ``efficiency`` instead."""
    import numpy as np

    times = np.full(count, np.nan)
    for members, s, found in rows:
        times[members] = step(s.at(efficiency) if efficiency else s, found).total
    return times


def fit(
    rows: Sequence[Row],
    weights: Sequence[float] | None = None,
    start: Efficiency = START,
    free: Sequence[str] = tuple(BOUNDS),
    steps: int = 25,
) -> Fit:
    """Constants that explain the rows' step times; ``free`` names those that may move."""
    import numpy as np

    weight = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=float)
    residuals, x = _residuals(rows, start, free), np.log([getattr(start, name) for name in free])
    x = _minimise(residuals, x, x, weight, np.log([BOUNDS[name] for name in free]), steps)
    return Fit(_efficiency(start, free, x), np.expm1(residuals(x)))


def _residuals(rows: Sequence[Row], start: Efficiency, free: Sequence[str]) -> Callable[[Array], Array]:
    """Logarithms of predicted over measured times, by the logarithms of constants."""
    import numpy as np

    measured, stacked = np.array([row.step_time for row in rows], dtype=float), scenes(rows)

    def residuals(x: Array) -> Array:
        errors: Array = np.log(predict_times(stacked, len(rows), _efficiency(start, free, x)) / measured)
        return errors

    return residuals


def _efficiency(start: Efficiency, free: Sequence[str], x: Array) -> Efficiency:
    fitted: dict[str, Any] = {name: float(value) for name, value in zip(free, map(exp, x), strict=True)}
    return replace(start, **fitted)


def _minimise(
    residuals: Callable[[Array], Array], x: Array, start: Array, weight: Array, bounds: Array, steps: int
) -> Array:
    """Levenberg-Marquardt from ``x`` on smoothed absolute residuals with a quadratic prior at ``start``."""
    import numpy as np

    damping, r = 1e-2, residuals(x)
    prior = _PRIOR

    def loss(r: Array, x: Array) -> float:
        return float(np.sum(weight * np.sqrt(r * r + _SMOOTH**2)) + prior * np.sum((x - start) ** 2))

    for _ in range(steps):
        jacobian = np.stack([(residuals(x + 1e-3 * axis) - r) / 1e-3 for axis in np.eye(len(x))], axis=1)
        robust = weight / np.sqrt(r * r + _SMOOTH**2)
        hessian = (jacobian * robust[:, None]).T @ jacobian + 2 * prior * np.eye(len(x))
        gradient = (jacobian * robust[:, None]).T @ r + 2 * prior * (x - start)
        for _ in range(6):
            move = -np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
            tried = np.clip(x + np.clip(move, -0.7, 0.7), bounds[:, 0], bounds[:, 1])
            tried_r = residuals(tried)
            if loss(tried_r, tried) < loss(r, x) - 1e-9:
                x, r, damping = tried, tried_r, damping / 3
                break
            damping *= 4
        else:
            return x
    return x


def left_out(
    rows: Sequence[Row], weights: Sequence[float] | None = None, start: Efficiency = START, steps: int = 4
) -> Array:
    """Each row's error when its whole group (source and model) is kept out of the fit; NaN with one group only.

    Each fit goes on from the one of all rows, with a group's weight at 0, and so needs few ``steps``.
    """
    import numpy as np

    errors, names = np.full(len(rows), np.nan), np.array([row.group for row in rows])
    if len({*names}) < 2:
        return errors
    weight = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=float)
    residuals, begin = _residuals(rows, start, tuple(BOUNDS)), np.log([getattr(start, name) for name in BOUNDS])
    bounds = np.log(list(BOUNDS.values()))
    whole = _minimise(residuals, begin, begin, weight, bounds, 3 * steps)
    for group in sorted({*names}):
        apart = names == group
        found = _minimise(residuals, whole, begin, weight * ~apart, bounds, steps)
        errors[apart] = np.expm1(residuals(found)[apart])
    return errors


def cluster_rows(rows: Iterable[Row], cluster: Cluster) -> tuple[list[Row], list[tuple[str, str, str]]]:
    """The rows to fit, of ``cluster``'s GPU and timed; and (row, source, reason) of the others."""
    judged = [(row, _not_for(row, cluster)) for row in rows]
    foreign = [(row.row_id, row.source, reason) for row, reason in judged if reason]
    return [row for row, reason in judged if not reason], foreign


def _not_for(row: Row, cluster: Cluster) -> str:
    """Why a row says nothing about the speed of ``cluster``; empty where it does."""
    if not same_gpu(row.measured["gpu"], cluster):
        return f"measured on {row.measured['gpu']}; the GPU of {cluster.name} is {cluster.accelerator.name}"
    return "" if row.step_time else "no step time: neither iter_time_s nor tokens_per_gpu_s"


def as_yaml(efficiency: Efficiency) -> str:
    """The ``efficiency:`` block of a cluster file."""
    lines = ["efficiency:"]
    for f in fields(Efficiency):
        value = getattr(efficiency, f.name)
        lines.append(f"  {f.name}: {value:.4g}" if isinstance(value, float) else f'  {f.name}: "{value}"')
    return "\n".join(lines) + "\n"
