"""Our error on measured runs: row by row, by source, over all; who runs out of memory; which layout wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import exp, isfinite, log
from statistics import mean, median
from typing import Any

from meshwright.cost.fitting import fit_probability
from meshwright.cost.memory import GIB, allocatable
from meshwright.measured.predict import predict
from meshwright.measured.rows import Row, usable
from meshwright.spec.frozen import dataclass

__all__ = ["Judged", "document", "judge", "judge_rows", "kendall", "summary"]

Skip = tuple[str, str, str]  # row, source, reason


@dataclass(frozen=True)
class Judged:
    """One row with what was predicted for it. Seconds, GiB; None where nothing was published."""

    row: Row
    step_time: float
    peak_memory: float  # as its source looked at it
    allocated: float  # at most, by any rank

    @property
    def measured_time(self) -> float | None:
        """Seconds of a step."""
        return self.row.step_time

    @property
    def measured_memory(self) -> float | None:
        """GiB of the fullest rank, or of the one its source looked at."""
        return self.row.peak_memory

    @property
    def oom(self) -> bool | None:
        """Whether the run ran out of memory."""
        return self.row.oom

    @property
    def fits(self) -> bool:
        """Whether it should fit, by our prediction of what the allocator gives out."""
        return self.allocated <= self._limit

    @property
    def fit_probability(self) -> float:
        """What ``plan`` would say of it."""
        return fit_probability(self.allocated, self._limit, self.row.framework.memory_spread)

    @property
    def _limit(self) -> float:
        return allocatable(self.row.spec.cluster.accelerator.memory_gib) / GIB

    @property
    def interval(self) -> tuple[float, float]:
        """Seconds between which 80 % of measurements should lie."""
        factor = exp(self.row.spec.cluster.efficiency.spread)
        return self.step_time / factor, self.step_time * factor


def judge(records: Iterable[Mapping[str, str]]) -> tuple[list[Judged], list[dict[str, str]]]:
    """Every record that can be expressed as a row with its prediction, and the others with the reason."""
    return judge_rows(*usable(records))


def judge_rows(rows: Sequence[Row], skipped: Sequence[Skip]) -> tuple[list[Judged], list[dict[str, str]]]:
    """Every row with its prediction; those that cannot be costed join the ``skipped``."""
    judged = [Judged(row, *map(float, numbers)) for row, *numbers in zip(rows, *predict(rows), strict=True)]
    large = [(j.row.row_id, j.row.source, "too large to be costed") for j in judged if not _finite(j)]
    return [j for j in judged if _finite(j)], [
        dict(zip(("row_id", "source", "reason"), skip, strict=True)) for skip in (*skipped, *large)
    ]


def _finite(j: Judged) -> bool:
    return isfinite(j.step_time + j.peak_memory)


def document(rows: Sequence[Row], skipped: Sequence[Skip]) -> dict[str, Any]:
    """The machine-readable result: ``rows``, ``skipped`` and ``summary``."""
    judged, skips = judge_rows(rows, skipped)
    return {"rows": [_row(j) for j in judged], "skipped": skips, "summary": summary(judged)}


def _row(j: Judged) -> dict[str, Any]:
    return {
        "row_id": j.row.row_id,
        "source": j.row.source,
        "measured_step_time_s": j.measured_time,
        "predicted_step_time_s": j.step_time,
        "predicted_step_time_80_s": list(j.interval),
        "measured_peak_memory_gib": j.measured_memory,
        "predicted_peak_memory_gib": j.peak_memory,
        "measured_oom": j.oom,
        "predicted_fits": j.fits,
        "step_time_error": _error(j.step_time, j.measured_time),
        "peak_memory_error": _error(j.peak_memory, j.measured_memory),
    }


def _error(predicted: float, measured: float | None) -> float | None:
    return predicted / measured - 1 if measured else None


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """Errors by source and overall."""
    sources = sorted({j.row.source for j in judged})
    by_source = {source: _summary([j for j in judged if j.row.source == source]) for source in sources}
    return {"overall": _summary(judged), "sources": by_source}


def _summary(judged: Sequence[Judged]) -> dict[str, Any]:
    timed = [j for j in judged if j.measured_time]
    inside = [j.interval[0] <= (j.measured_time or 0) <= j.interval[1] for j in timed]
    return {
        "step_time": _statistics([_error(j.step_time, j.measured_time) for j in timed]),
        "step_time_interval": {
            "coverage": mean(inside) if inside else None,
            "half_width": mean(exp(j.row.spec.cluster.efficiency.spread) - 1 for j in timed) if timed else None,
        },
        "peak_memory": _statistics([_error(j.peak_memory, j.measured_memory) for j in judged if j.measured_memory]),
        "memory_limit": _confusion(judged),
        "ranking": _ranking(timed),
    }


def _statistics(errors: Sequence[float | None]) -> dict[str, float] | None:
    """Of relative errors: n, median, mean and 90th percentile of their size, the largest, and the bias."""
    known = [e for e in errors if e is not None]
    if not known:
        return None
    sizes = sorted(map(abs, known))
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return {
        "n": len(known),
        "median": median(sizes),
        "mape": mean(sizes),
        "p90": ninth,
        "max": sizes[-1],
        "bias": mean(known),
    }


def _confusion(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """Rows by what happened and what was predicted; balanced accuracy where both happened."""
    labelled = [(j.oom, not j.fits) for j in judged if j.oom is not None]
    if not labelled:
        return None
    counts = {
        f"{'oom' if oom else 'fit'}_predicted_{'oom' if said else 'fit'}": labelled.count((oom, said))
        for oom in (False, True)
        for said in (False, True)
    }
    ooms, fits = sum(oom for oom, _ in labelled), sum(not oom for oom, _ in labelled)
    both = ooms and fits
    right = counts["oom_predicted_oom"] / max(1, ooms) + counts["fit_predicted_fit"] / max(1, fits)
    return {**counts, "balanced_accuracy": right / 2 if both else None}


def _ranking(timed: Sequence[Judged]) -> dict[str, Any] | None:
    """Of every (source, model, GPUs, sequence, batch) group of four layouts or more: what the first choice costs."""
    groups: dict[tuple[Any, ...], list[Judged]] = {}
    for j in timed:
        spec = j.row.spec
        key = (j.row.group, spec.cluster.gpus, spec.training.sequence, spec.training.global_batch)
        groups.setdefault(key, []).append(j)
    large = [group for group in groups.values() if len(group) >= 4]
    if not large:
        return None
    regrets = [_regret(group) for group in large]
    return {
        "groups": len(large),
        "mean_regret": mean(regrets),
        "max_regret": max(regrets),
        "kendall_tau": mean(kendall([(j.step_time, j.measured_time or 0) for j in group]) for group in large),
    }


def _regret(group: Sequence[Judged]) -> float:
    chosen = min(group, key=lambda j: j.step_time)
    best = min(j.measured_time or 0 for j in group)
    return (chosen.measured_time or 0) / best - 1


def kendall(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau-b of two orders: 1 the same, -1 reversed."""
    signs = [(_sign(a[0] - b[0]), _sign(a[1] - b[1])) for a, b in combinations(pairs, 2)]
    concordance = sum(x * y for x, y in signs)
    untied = sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs)
    return concordance / untied**0.5 if untied else 0.0


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def spread(errors: Iterable[float]) -> float:
    """The half-width in the logarithm that holds 80 % of ``errors``."""
    sizes = sorted(abs(log(1 + e)) for e in errors)
    return sizes[min(len(sizes) - 1, int(0.8 * len(sizes)))]
