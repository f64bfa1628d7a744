"""Measurements -> the constants of the time model, as cost/compute.py and cost/collectives.py use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from meshwright.bench.measurement import LINKS, Measurement, Rate
from meshwright.spec import Cluster, Efficiency
from meshwright.spec.frozen import dataclass

__all__ = ["Machine", "collectives", "machine"]

MOST = 0.9  # part of a stated peak that a machine may reach before the peak is taken to be understated
LARGE = 0.5  # measurements of at least this part of the most work say what large ones reach
PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}  # of (g-1)/g of the bytes


@dataclass(frozen=True)
class Machine:
    """The constants, and peaks of the cluster's file that the machine beats, by their path: what they must be."""

    efficiency: Efficiency
    peaks: Mapping[str, float]


def machine(cluster: Cluster, found: Sequence[Measurement], source: str) -> Machine:
    """What was measured in place of ``cluster``'s own constants; what was not stays as it is."""
    peaks: dict[str, float] = {}

    def part(path: str, stated: float, reached: float) -> float:
        if reached <= MOST * stated:
            return reached / stated
        peaks[path] = reached / MOST
        return MOST

    gpu, e = cluster.accelerator, cluster.efficiency
    bandwidth = max(m.reached for m in found if m.kind == "memory") / 1e9
    kernel = next(m.seconds for m in found if m.kind == "kernel")
    units = next(m.roof.part for m in found if m.kind == "attention")
    products = [m for m in found if m.kind == "product" and m.roof.part == units]
    rate, attention = (_rate(ms, bandwidth * 1e9, kernel) / 1e12 for ms in (products, _of(found, "attention")))
    unit_path = f"accelerator.{units}_tflops"
    changes = {
        "memory": part("accelerator.memory_bandwidth_gb_s", gpu.memory_bandwidth_gb_s, bandwidth),
        "matmul": part(unit_path, getattr(gpu, f"{units}_tflops"), rate),
        "kernel_us": kernel * 1e6,
        "launch_us": next(m.seconds for m in found if m.kind == "operation") * 1e6,
    }
    changes["attention"] = min(MOST, attention / peaks.get(unit_path, getattr(gpu, f"{units}_tflops")))
    for link in LINKS:
        reached = _link_rate([m for m in found if m.roof.part == link])
        if reached is not None:
            stated = getattr(cluster, link).bandwidth_gb_s
            changes[f"{link}_link"] = part(f"{link}.bandwidth_gb_s", stated, reached / 1e9)
    return Machine(replace(e, **changes, source=source), peaks)


def _of(found: Iterable[Measurement], kind: str) -> list[Measurement]:
    return [m for m in found if m.kind == kind]


def _rate(found: Sequence[Measurement], bandwidth: float, kernel: float) -> float:
    """FLOP/s of the largest, without the time of their bytes and of the kernel's start, which the model adds."""
    most = max(m.work for m in found)
    large = [m for m in found if m.work >= LARGE * most]
    rest = sum(max(m.seconds / 4, m.seconds - m.moved / bandwidth - kernel) for m in large)
    return sum(m.work for m in large) / rest


def _link_rate(found: Sequence[Measurement]) -> float | None:
    """Bytes a second of the largest collectives; None where none was measured."""
    ringed = [m for m in found if m.name in PASSES]
    most = max((m.work / PASSES[m.name] for m in ringed), default=0.0)
    large = [m.reached for m in ringed if m.work / PASSES[m.name] >= LARGE * most]
    return median(large) if large else None


def collectives(cluster: Cluster, told: Iterable[Mapping[str, Any]]) -> list[Measurement]:
    """What ``bench.links`` wrote; the bytes that each rank's link carries are the work."""
    return [_collective(cluster, one) for one in told]


def _collective(cluster: Cluster, one: Mapping[str, Any]) -> Measurement:
    ranks, size = int(one["ranks"]), float(one["bytes"])
    away = (ranks - 1) / ranks
    carried = size * {"send_receive": 1.0, "all_to_all": away}.get(one["name"], PASSES.get(one["name"], 1.0) * away)
    link = str(one["link"])
    roof = Rate(link, getattr(cluster, link).bandwidth_gb_s * 1e9)
    shown = f"{size / 2**20:g} MiB over {ranks} ranks"
    return Measurement("collective", str(one["name"]), shown, float(one["seconds"]), carried, roof=roof)
