"""Bytes one rank sends in a step, by kind of parallelism and the slowest link they cross.

A ring all-gather or reduce-scatter of n bytes over g ranks sends (g-1)/g*n from each; an all-reduce is both. With
dp groups large the ZeRO paper's table follows: 2, 2, 2 and 3 times the parameters (Rajbhandari et al. 2020, 7.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.cost.collectives import Group, group
from meshwright.cost.memory import stage_parameters
from meshwright.cost.numbers import Number, where
from meshwright.cost.scene import Load, Scene

__all__ = ["Flow", "Traffic", "data_volume", "traffic"]


@dataclass(frozen=True)
class Flow:
    """Bytes a rank sends in a step; whether its group leaves the fast links of a node, and whether its pod."""

    size: Number
    between_nodes: Number
    between_pods: Number

    @property
    def link(self) -> str:
        """The slowest link that one layout's flow crosses."""
        if self.between_pods:
            return "between pods"
        return "between nodes" if self.between_nodes else "within nodes"


@dataclass(frozen=True)
class Traffic:
    """One rank's flows."""

    tensor: Flow
    context: Flow
    expert: Flow
    pipeline: Flow
    data: Flow


def traffic(s: Scene, load: Load) -> Traffic:
    """What one rank of the stage ``load`` sends in one step."""
    r = s.layout
    tensor, context, expert = group(s, r.tp, 1), group(s, r.cp, r.tp), group(s, r.ep, r.etp)
    m, hidden = r.microbatches, 2 * r.model.hidden * s.tokens
    passes = where(r.recompute == 2, 3, 2)  # a recomputed forward communicates again
    pairs = 2 * load.dense + load.moe
    regathered = where(r.sp, pairs, 0 * pairs)  # the backward gathers a linear's input again
    tensor_bytes = m * (2 * passes * pairs + regathered) * _share(tensor) * hidden
    moe = r.model.moe
    routed = load.moe * (moe.topk if moe else 0) * hidden / r.tp
    keys = r.model.heads * 2 * r.model.mla.v_dim if r.model.mla else 2 * r.model.kv_heads * r.model.head_dim
    around = 2 * s.tokens * keys / r.tp * (r.cp - 1) * (passes + 1) * load.layers
    sends = (load.index > 0) + 0 + (load.index < r.pp - 1)
    return Traffic(
        tensor=_flow(tensor_bytes, tensor),
        context=_flow(m * around, context),
        expert=_flow(m * 2 * passes * _share(expert) * routed, expert),
        pipeline=_flow(m * r.vpp * sends * hidden / s.degrees.sequence, group(s, r.pp, r.world // r.pp)),
        data=_data(s, load),
    )


def _flow(size: Number, g: Group) -> Flow:
    return Flow(size, g.size > g.near, g.wide)


def _share(g: Group) -> Number:
    return (g.size - 1) / g.size


def _data(s: Scene, load: Load) -> Flow:
    everything, experts = stage_parameters(s, load)
    r, f = s.layout, s.framework
    wide, narrow = group(s, s.replicas, r.tp), group(s, s.edp, r.etp * r.ep)
    each = data_volume(r.zero, r.microbatches, f.reduce_bytes)
    dense = everything - experts
    return _flow(each * (_share(wide) * dense + _share(narrow) * experts), wide)


def data_volume(zero: Number, microbatches: Number = 1, gradient: float = 2.0, weight: float = 2.0) -> Number:
    """Bytes sent for each parameter in a large group: gradients reduced, parameters gathered.

    ZeRO-0 all-reduces gradients; 1 and 2 scatter them and gather the new parameters; 3 gathers parameters forward
    and backward and scatters gradients, in every micro-batch.
    """
    return where(zero >= 3, microbatches * (2 * weight + gradient), where(zero >= 1, gradient + weight, 2 * gradient))
