"""Bytes one rank sends in a step, by kind of parallelism and the slowest link they cross.

A ring all-gather or reduce-scatter of n bytes over g ranks sends (g-1)/g*n from each; an all-reduce is both. With
dp groups large the ZeRO paper's table follows: 2, 2, 2 and 3 times the parameters (Rajbhandari et al. 2020, 7.2).
"""

from __future__ import annotations

from dataclasses import fields, replace

from meshwright.cost import gathered, messages
from meshwright.cost.collectives import context_group, context_groups, group, pipeline_group, weight_groups
from meshwright.cost.data_parallel import data_flow, second_copy
from meshwright.cost.flows import Flow, flow, share
from meshwright.cost.inputs import Load, Scene, recomputed_part
from meshwright.cost.numbers import Number, where
from meshwright.spec.frozen import dataclass

__all__ = ["Flow", "Traffic", "traffic"]


@dataclass(frozen=True)
class Traffic:
    """One rank's flows."""

    tensor: Flow
    context: Flow  # among all context-parallel ranks, or on the outer of two levels
    context_inner: Flow  # of two levels, on the inner
    expert: Flow
    pipeline: Flow
    data: Flow
    weights: Flow  # gathered by part of the ranks: generalized tensor parallelism, ZeRO++'s second copy


def traffic(s: Scene, load: Load) -> Traffic:
    """What one rank of the stage ``load`` sends in one step."""
    r, m = s.layout, s.layout.microbatches
    part = where(r.recompute == 2, recomputed_part(s, load), 1)
    # each chunk sends forward but the model's last, and backward but the first
    sends = (r.pp > 1) * (2 * r.vpp - (load.index == 0) - (load.index == r.pp - 1))
    context, inner = _context(s, load, part)
    return _named(
        s,
        Traffic(
            tensor=_tensor(s, load, part),
            context=context,
            context_inner=inner,
            expert=_expert(s, load, part),
            pipeline=flow(m * sends * messages.hidden(s) / s.degrees.sequence, pipeline_group(s), "send", m * sends),
            data=data_flow(s, load),
            weights=_weights(s, load, part),
        ),
    )


def _named(s: Scene, found: Traffic) -> Traffic:
    """With what the fast links join: an NVLink domain may be several nodes."""
    cluster = s.layout.cluster
    if (cluster.nvlink_domain or 0) <= cluster.gpus_per_node:
        return found
    flows = {f.name: replace(getattr(found, f.name), joined="NVLink domains") for f in fields(found)}
    return replace(found, **flows)


def _tensor(s: Scene, load: Load, part: Number) -> Flow:
    """An all-reduce is a scatter and a gather; with sequence parallelism the backward gathers the inputs again."""
    r, g = s.layout, group(s, s.layout.tp, 1)
    sizes = [messages.tensor(s, kind) for kind in s.kinds]
    entering, leaving, gradients, returned = (
        load.total(sum(getattr(each, name)) for each in sizes)
        for name in ("entering", "leaving", "gradients", "returned")
    )
    passes = 2 + part * messages.again(s)
    sharded = (passes - 1) * (entering + leaving) + entering + gradients + returned
    gathered = where(r.sp, sharded, 2 * passes * leaving)
    pairs = r.microbatches * leaving / messages.hidden(s)
    count = pairs * where(r.sp, 2 * passes + 1, passes) * (r.tp > 1)
    kind = "all-gather and reduce-scatter" if r.spec.parallelism.sp else "all-reduce"
    gathered = gathered + load.head * messages.logits(s)
    return flow(r.microbatches * gathered * share(g) + _sent_by_muon(s, load), g, kind, count)


def _sent_by_muon(s: Scene, load: Load) -> Number:
    if s.layout.training.optimizer.name != "muon":
        return 0 * load.layers
    from meshwright.cost import muon

    return muon.sent(s, load)


def _context(s: Scene, load: Load, part: Number) -> tuple[Flow, Flow]:
    """Among all, or on the outer level and on the inner: heads are exchanged there, and keys go round outside."""
    heads, rounds = _heads(s, load, part), _rounds(s, load, part)
    return (heads, rounds) if s.framework.exchanges_heads else (rounds, heads)


def _rounds(s: Scene, load: Load, part: Number) -> Flow:
    """Keys and values go round, and round again with their gradients."""
    g = context_groups(s)[1]
    rounds = s.layout.microbatches * (3 + part * messages.again(s, "core_attn")) * (g.size - 1)
    keys = load.total(messages.keys(s, kind) for kind in s.kinds)
    return flow(rounds * keys, g, "send", rounds * load.layers)


def _heads(s: Scene, load: Load, part: Number) -> Flow:
    """Heads are exchanged for tokens of keys, values, queries and outputs; among all where scans need them."""
    g, whole = context_groups(s)[0], context_group(s)
    dealt = load.total(messages.dealt(s, kind) for kind in s.kinds) * share(whole)
    passes = s.layout.microbatches * (2 + part * messages.again(s, "core_attn"))
    size = load.total(messages.keys(s, kind) + messages.queries(s, kind) for kind in s.kinds)
    g, size = (whole if messages.deals(s) else g), size * share(g) + dealt
    return flow(passes * size, g, "all-to-all", 2 * passes * load.layers * (g.size > 1))


def _expert(s: Scene, load: Load, part: Number) -> Flow:
    """Dispatch and combine, to the experts' ranks and among those that share an expert."""
    g = group(s, s.layout.ep, s.layout.etp)
    count = (
        s.layout.microbatches
        * load.total(messages.routed(kind) for kind in s.kinds)
        * 2
        * (2 + part * messages.again(s, "moe"))
    )
    size = messages.expert(s) * (share(g) + (s.layout.etp - 1))
    between = messages.between_nodes(s, g)
    outside = (g.size - g.near) / g.size * messages.expert(s) if between is None else between
    sent = flow(count * size, g, "all-to-all", count * (s.layout.ep * s.layout.etp > 1))
    return replace(sent, outside=count * outside)


def _weights(s: Scene, load: Load, part: Number) -> Flow:
    """Gathered for both passes, and again where layers are computed again; gradients scattered."""
    if s.framework.secondary > 1:
        return second_copy(s, load)
    wide, narrow = weight_groups(s)
    dense, experts = gathered.elements(s, load)
    once = gathered.weight_bytes(s)
    each = s.layout.microbatches * ((2 + part * messages.again(s)) * once + s.framework.reduce_bytes)
    count = s.layout.microbatches * gathered.matrices(s, load) * 3
    return flow(each * (share(wide) * dense + share(narrow) * experts), wide, "all-gather and reduce-scatter", count)
