"""Numbers of a plan that differ: what was derived, and what is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.spec.frozen import dataclass

__all__ = ["Number", "derived", "predicted", "unequal"]

_CLOSE = 1e-9  # relative: sums in another order


@dataclass(frozen=True)
class Number:
    """``a`` and ``b`` are numbers or, as for ``fits``, words; None where one side has none."""

    name: str
    a: Any
    b: Any

    @property
    def change(self) -> float | None:
        """``b / a - 1``; None where that says nothing."""
        if isinstance(self.a, bool) or not isinstance(self.a, int | float) or not isinstance(self.b, int | float):
            return None
        return self.b / self.a - 1 if self.a else None


def unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Number, ...]:
    """The numbers that differ, by the names of either."""
    pairs = (Number(name, a.get(name), b.get(name)) for name in {**a, **b})
    return tuple(pair for pair in pairs if not _same(pair))


def derived(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The derived numbers of a ``plan_summary``."""
    stages = summary["pipeline"]
    return {
        "world": summary["world"],
        "nodes": summary["nodes"],
        **summary["degrees"],
        **{f"batch.{name}": value for name, value in summary["batch"].items()},
        "steps": summary["steps"],
        "tokens": (summary["cost"]["duration"] or {}).get("tokens"),
        "padded_vocab": summary["padded_vocab"],
        **{f"parameters.{name}": value for name, value in summary["parameters"].items()},
        "parameters.of_a_rank": max(stage["parameters_per_rank"] for stage in stages),
        "layers.of_a_rank": max(sum(stage["layers"]) for stage in stages),
    }


def predicted(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The predictions of a ``plan_summary``: seconds, bytes, FLOP/s; memory of the fullest stage."""
    cost = summary["cost"]
    names = ("step_time_s", "tokens_per_second", "tflops_per_gpu", "mfu", "hfu")
    length = cost["duration"] or {}
    return {
        **{name: cost[name] for name in names},
        **{name: length.get(name) for name in ("days", "gpu_hours", "price")},
        **{name: cost[name] for name in ("peak_memory_bytes", "memory_limit_bytes", "fits", "fit_probability")},
        **{f"memory_bytes.{name}": size for name, size in cost["memory_bytes"][cost["peak_memory_stage"]].items()},
        **{f"traffic_bytes.{name}": size for name, size in cost["traffic_bytes"].items()},
        **{f"step_parts_s.{name}": seconds for name, seconds in cost["step_parts_s"].items()},
    }


def _same(pair: Number) -> bool:
    change = pair.change
    return pair.a == pair.b if change is None else abs(change) <= _CLOSE
