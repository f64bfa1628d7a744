"""Hierarchical alpha-beta cost of collectives over a cluster's two kinds of links.

A ring over g ranks moves (g-1)/g of the gathered bytes through each link (Thakur et al. 2005, section 4); where k
ranks of the group share a node, k network adapters carry it between nodes, and the slowest of the links decides.
A ring crosses the border of a pod once, and so do those of the groups beside it; they share the pod's uplinks.
"""

from __future__ import annotations

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, clip, log2, maximum, minimum, where
from meshwright.spec.frozen import dataclass

__all__ = [
    "Group",
    "all_to_all",
    "beside",
    "context_group",
    "context_groups",
    "copies_groups",
    "data_group",
    "expert_data_group",
    "group",
    "hides",
    "pipeline_group",
    "point_to_point",
    "ring",
    "round_trip",
    "weight_groups",
]

_START_US = 15.0
"""Before the first byte of a ring's pass moves. An all-reduce of 1 MiB within a DGX A100 takes 44 us on two GPUs and 92
on eight, of which links and bytes explain a third (VIA-Research/vTrain@f8dda84 trace/a100/AR_GPU*_1M_1024M_LUT)."""


@dataclass(frozen=True)
class Group:
    """``size`` ranks ``stride`` apart, ``near`` of which share the fast links; ``wide``: they are in several pods."""

    size: Number
    near: Number
    stride: Number
    wide: Number


def group(s: Scene, size: Number, stride: Number) -> Group:
    """The group of ``size`` ranks ``stride`` apart."""
    pod = s.layout.cluster.pod
    wide = 0 * size if pod is None else (size * stride > pod) + 0
    return Group(size, clip(s.domain // stride, 1, size), stride, wide)


def data_group(s: Scene) -> Group:
    """The ranks that share one copy of dense weights: context-parallel neighbours, and their like further away."""
    r, ranks = s.layout, s.sharers[0]
    inner = r.tp * r.gtp
    near = clip(s.domain // inner, 1, r.cp) * clip(s.domain // (inner * r.cp * s.inner_stages), 1, r.dp)
    stride = inner * s.inner_stages
    return Group(ranks, minimum(near, ranks), stride, group(s, ranks, stride).wide)


def expert_data_group(s: Scene) -> Group:
    """The ranks that share one copy of the same experts, or of the same parts of them."""
    r = s.layout
    return group(s, s.sharers[1], r.etp * r.ep * r.egtp * s.inner_stages)


def copies_groups(s: Scene) -> tuple[Group, Group]:
    """The ranks that own the same shard in each copy of dense weights, and of experts'."""
    copies = s.layout.spec.parallelism.optimizer_instances + 0 * s.replicas
    dense, experts = data_group(s), expert_data_group(s)
    return group(s, copies, dense.stride * dense.size), group(s, copies, experts.stride * experts.size)


def weight_groups(s: Scene) -> tuple[Group, Group]:
    """The ranks that keep a dense weight in parts, behind tp; and those that keep an expert's, behind ep."""
    r = s.layout
    one = 0 * r.tp + 1
    return group(s, r.gtp * one, r.tp), group(s, r.egtp * one, r.etp * r.ep)


def context_group(s: Scene) -> Group:
    """All ranks of a sequence."""
    return group(s, s.layout.cp, s.layout.tp * s.layout.gtp)


def context_groups(s: Scene) -> tuple[Group, Group]:
    """The ranks that exchange heads for tokens, and those round which keys go: all of cp is one, or each a level."""
    r = s.layout
    levels = r.spec.parallelism.cp_levels if r.backend.name == "megatron" else ()
    inner = (levels[0] if levels else 1) + 0 * r.cp if not s.framework.exchanges_heads else r.cp
    stride = r.tp * r.gtp
    return group(s, inner, stride), group(s, r.cp // inner, stride * inner)


def pipeline_group(s: Scene) -> Group:
    """The stages of one pipeline."""
    r = s.layout
    return group(s, r.pp, r.tp * r.gtp * r.cp * where(s.inner_stages > 1, 1, r.dp))


def ring(s: Scene, g: Group, size: Number, passes: int = 1) -> Number:
    """Seconds of an all-gather or reduce-scatter of ``size`` bytes (gathered); an all-reduce is two passes."""
    share = (g.size - 1) / g.size * size
    near, far = rates(s)
    between = maximum(share / (far * g.near), g.wide * share * g.stride / (far * _uplinks(s)))
    transfer = maximum((g.near > 1) * share / near, (g.size > g.near) * between)
    return passes * (transfer + _latency(s, g))


def round_trip(s: Scene, g: Group, size: Number) -> Number:
    """Seconds in which ``size`` bytes of each rank pass all others, neighbour to neighbour: the slowest link decides.

    Between nodes one rank of each sends, so that one network adapter carries what NCCL's rings spread over all.
    """
    near, far = rates(s)
    return (g.size - 1) * size / where(g.size > g.near, minimum(near, far), near) + _latency(s, g)


def all_to_all(s: Scene, g: Group, size: Number, between: Number | None = None) -> Number:
    """Seconds in which each rank sends ``size`` bytes, equally to every rank of its group.

    ``between``: bytes that leave the fast links where they are fewer, and are spread there by the fast ones.
    """
    near, far = rates(s)
    inside = (g.near - 1) / g.size * size / near if between is None else (g.near - 1) / g.near * size / near
    outside = ((g.size - g.near) / g.size * size if between is None else between) / far
    cluster = s.layout.cluster
    beyond = g.wide * (1 - (cluster.pod or 0) / (g.size * g.stride)) * size / far * cluster.oversubscription
    return maximum(inside, outside, beyond) + _latency(s, g)


def point_to_point(s: Scene, far: Number, size: Number) -> Number:
    """Seconds to send ``size`` bytes to a neighbour, between nodes where ``far``."""
    near_rate, far_rate = rates(s)
    cluster = s.layout.cluster
    inside = size / near_rate + cluster.intra.latency_us * 1e-6
    outside = size / far_rate + cluster.inter.latency_us * 1e-6
    return far * outside + (1 - far) * inside


def hides(s: Scene) -> Number:
    """Part of what ranks with the same weights exchange that runs beside compute, if there is enough of that."""
    return maximum(s.layout.cluster.efficiency.overlap, s.framework.hides)


def beside(s: Scene, sent: Number, computed: Number) -> Number:
    """Of the seconds that something is ``sent``, those that a pass of ``computed`` seconds does not hide."""
    return maximum(sent * (1 - hides(s)), sent - computed)


def rates(s: Scene) -> tuple[float, float]:
    """Bytes per second of one GPU within a node and between nodes, as collectives reach them."""
    cluster = s.layout.cluster
    e = cluster.efficiency
    return (
        cluster.intra.bandwidth_gb_s * 1e9 * e.intra_link,
        cluster.inter.bandwidth_gb_s * 1e9 * e.inter_link,
    )


def _uplinks(s: Scene) -> float:
    """A pod's links to the others, counted in network adapters."""
    return (s.layout.cluster.pod or 1) / s.layout.cluster.oversubscription


def _latency(s: Scene, g: Group) -> Number:
    """A step costs the link's latency; within a node rings are walked, between nodes trees."""
    cluster = s.layout.cluster
    near = (g.near - 1) * cluster.intra.latency_us
    far = log2(maximum(1, g.size / g.near)) * cluster.inter.latency_us
    return (_START_US * (g.size > 1) + near + far) * 1e-6
