"""Bytes one rank sends in a step, by kind of parallelism and the slowest link they cross.

A ring all-gather or reduce-scatter of n bytes over g ranks sends (g-1)/g*n from each; an all-reduce is both. With
dp groups large the ZeRO paper's table follows: 2, 2, 2 and 3 times the parameters (Rajbhandari et al. 2020, 7.2).
"""

from __future__ import annotations

from dataclasses import fields, replace

from meshwright.cost import gathered, messages
from meshwright.cost.collectives import (
    Group,
    context_group,
    context_groups,
    copies_groups,
    data_group,
    expert_data_group,
    group,
    pipeline_group,
    weight_groups,
)
from meshwright.cost.inputs import Load, Scene, recomputed_part
from meshwright.cost.memory import stage_parameters
from meshwright.cost.numbers import Number, maximum, where
from meshwright.model.offload import sums_beside
from meshwright.spec.frozen import dataclass

__all__ = ["Flow", "Traffic", "data_volume", "runs", "scatters", "traffic"]


@dataclass(frozen=True)
class Flow:
    """Bytes a rank sends in a step, in how many messages and to how many ranks.

    Whether its group leaves the fast links of a node, and whether its pod; of an all-to-all the bytes that do.
    """

    size: Number
    between_nodes: Number
    between_pods: Number
    collective: str
    messages: Number
    group: Number
    outside: Number | None = None  # bytes beyond the fast links, where they are not all; None: not told apart
    joined: str = "nodes"  # what the fast links join

    @property
    def link(self) -> str:
        """The slowest link that one layout's flow crosses."""
        if self.between_pods:
            return "between pods"
        return f"{'between' if self.between_nodes else 'within'} {self.joined}"

    @property
    def told(self) -> str:
        """Gigabytes of one layout's flow, and over which links."""
        part = self.outside if self.outside is not None and 0 < self.outside < self.size else None
        some = "" if part is None else f", {part / 1e9:,.1f} of them"
        return f"{self.size / 1e9:,.1f} GB{some} {self.link}"


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
            pipeline=_flow(m * sends * messages.hidden(s) / s.degrees.sequence, pipeline_group(s), "send", m * sends),
            data=_data(s, load),
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
    return _flow(r.microbatches * gathered * _share(g) + _sent_by_muon(s, load), g, kind, count)


def _sent_by_muon(s: Scene, load: Load) -> Number:
    if s.layout.training.optimizer.name != "muon":
        return 0 * load.layers
    from meshwright.cost import muon

    return muon.sent(s, load)


def _gathered_by_muon(s: Scene, load: Load) -> tuple[Number, Number]:
    """By DeepSpeed's."""
    if s.layout.training.optimizer.name != "muon" or s.layout.backend.name != "deepspeed":
        return 0, 0
    from meshwright.cost import muon

    return muon.gathered(s, load)


def _context(s: Scene, load: Load, part: Number) -> tuple[Flow, Flow]:
    """Among all, or on the outer level and on the inner: heads are exchanged there, and keys go round outside."""
    heads, rounds = _heads(s, load, part), _rounds(s, load, part)
    return (heads, rounds) if s.framework.exchanges_heads else (rounds, heads)


def _rounds(s: Scene, load: Load, part: Number) -> Flow:
    """Keys and values go round, and round again with their gradients."""
    g = context_groups(s)[1]
    rounds = s.layout.microbatches * (3 + part * messages.again(s, "core_attn")) * (g.size - 1)
    keys = load.total(messages.keys(s, kind) for kind in s.kinds)
    return _flow(rounds * keys, g, "send", rounds * load.layers)


def _heads(s: Scene, load: Load, part: Number) -> Flow:
    """Heads are exchanged for tokens of keys, values, queries and outputs; among all where scans need them."""
    g, whole = context_groups(s)[0], context_group(s)
    dealt = load.total(messages.dealt(s, kind) for kind in s.kinds) * _share(whole)
    passes = s.layout.microbatches * (2 + part * messages.again(s, "core_attn"))
    size = load.total(messages.keys(s, kind) + messages.queries(s, kind) for kind in s.kinds)
    g, size = (whole if messages.deals(s) else g), size * _share(g) + dealt
    return _flow(passes * size, g, "all-to-all", 2 * passes * load.layers * (g.size > 1))


def _expert(s: Scene, load: Load, part: Number) -> Flow:
    """Dispatch and combine, to the experts' ranks and among those that share an expert."""
    g = group(s, s.layout.ep, s.layout.etp)
    count = (
        s.layout.microbatches
        * load.total(messages.routed(kind) for kind in s.kinds)
        * 2
        * (2 + part * messages.again(s, "moe"))
    )
    size = messages.expert(s) * (_share(g) + (s.layout.etp - 1))
    between = messages.between_nodes(s, g)
    outside = (g.size - g.near) / g.size * messages.expert(s) if between is None else between
    flow = _flow(count * size, g, "all-to-all", count * (s.layout.ep * s.layout.etp > 1))
    return replace(flow, outside=count * outside)


def _flow(size: Number, g: Group, collective: str, messages: Number) -> Flow:
    return Flow(size, g.size > g.near, g.wide, collective, messages, g.size)


def _share(g: Group) -> Number:
    return (g.size - 1) / g.size


def _data(s: Scene, load: Load) -> Flow:
    everything, experts = stage_parameters(s, load)
    r = s.layout
    wide, narrow = data_group(s), expert_data_group(s)
    each = _volume(s)
    dense = everything - experts
    kind = _kind(s)
    sharded = (2 * r.microbatches + scatters(s)) * load.layers
    count = where(r.zero >= 3, sharded, where(r.zero >= 1, scatters(s) + 1, 1))
    size, whole = each * (_share(wide) * dense + _share(narrow) * experts), _gathered_by_muon(s, load)
    size = size + _share(wide) * whole[0] + _share(narrow) * whole[1]
    flow = _flow(size, wide, kind, count * (wide.size > 1))
    return flow if r.spec.parallelism.optimizer_instances == 1 else _with_copies(s, flow, dense, experts)


def _kind(s: Scene) -> str:
    """Of the layout that the Spec says."""
    spec = s.layout.spec
    if not spec.parallelism.zero:
        return "all-reduce"
    after = spec.backend.name == "deepspeed" and sums_beside(
        spec.backend.deepspeed, spec.training, spec.parallelism.zero
    )
    return f"{'all-reduce' if after else 'reduce-scatter'} and all-gather"


def _with_copies(s: Scene, flow: Flow, dense: Number, experts: Number) -> Flow:
    """And once a step what the copies of a shard sum, or scatter and gather."""
    far, experts_far = copies_groups(s)
    last = s.framework.reduce_bytes if s.owners is s.sharers else s.framework.gather_bytes or s.width
    shards = _share(far) * dense / s.sharers[0] + _share(experts_far) * experts / s.sharers[1]
    among = (s.framework.reduce_bytes + last) * shards
    leaves = far.size > far.near
    return replace(
        flow,
        size=flow.size + among,
        between_nodes=flow.between_nodes | leaves,
        between_pods=flow.between_pods | far.wide,
        outside=flow.between_nodes * flow.size + leaves * among,
    )


def _volume(s: Scene) -> Number:
    """Bytes of a parameter among all that share it; of a second copy nearer by, all but the step's first gathering."""
    r, f, weight = s.layout, s.framework, s.framework.gather_bytes or s.width
    switched = where((r.zero == 0) & f.sums_in_switches, 0.5, 1.0)
    each = switched * data_volume(r.zero, where(r.zero == 2, scatters(s), r.microbatches), f.reduce_bytes, weight)
    scattered = (f.scatter_bytes or f.reduce_bytes) * (2 if f.reduces_whole else 1)
    each = each + f.reduces_after * f.reduce_bytes
    third = scatters(s) * scattered + weight * _gathered_afar(s)
    return where(r.zero >= 3, third, each)


def _gathered_afar(s: Scene) -> Number:
    return 1 if s.framework.secondary > 1 else 2 * s.layout.microbatches


def _second_copy(s: Scene, load: Load) -> Flow:
    """Of ZeRO++, gathered within the ranks that hold it."""
    r, ranks = s.layout, s.framework.secondary
    g, on = group(s, ranks + 0 * r.dp, r.tp), (ranks > 1) * (r.zero >= 3)
    times = on * (2 * r.microbatches - 1)
    size = times * (s.framework.gather_bytes or s.width) * stage_parameters(s, load)[0] * _share(g)
    return _flow(size, g, "all-gather", times * load.layers)


def _weights(s: Scene, load: Load, part: Number) -> Flow:
    """Gathered for both passes, and again where layers are computed again; gradients scattered."""
    if s.framework.secondary > 1:
        return _second_copy(s, load)
    wide, narrow = weight_groups(s)
    dense, experts = gathered.elements(s, load)
    once = gathered.weight_bytes(s)
    each = s.layout.microbatches * ((2 + part * messages.again(s)) * once + s.framework.reduce_bytes)
    count = s.layout.microbatches * gathered.matrices(s, load) * 3
    return _flow(each * (_share(wide) * dense + _share(narrow) * experts), wide, "all-gather and reduce-scatter", count)


def scatters(s: Scene) -> Number:
    """Times that gradients are reduced in a step.

    ZeRO-2 keeps a shard of them only, so that every micro-batch scatters its own (DeepSpeed's stage_1_and_2.py,
    Megatron-FSDP's grad_reduce_every_bprop), as ZeRO-3 does, unless they are summed whole; behind a pipeline Llama 3's
    trainer does it once with ZeRO-2 (section 3.3.2).
    """
    r = s.layout
    every = (r.zero >= 3) | ((r.zero == 2) & (r.pp == 1))
    return where(every & (s.framework.whole_gradients == 0), r.microbatches, runs(s))


def runs(s: Scene) -> Number:
    """Times that a pipeline fills and runs dry in a step."""
    r, every = s.layout, s.framework.emptied_every
    return where(r.pp > 1, maximum(1, r.microbatches / every), 1) if every else 1


def data_volume(zero: Number, microbatches: Number = 1, gradient: float = 2.0, weight: float = 2.0) -> Number:
    """Bytes sent for each parameter in a large group: gradients reduced, parameters gathered.

    ZeRO-0 all-reduces gradients; 1 scatters them and gathers the new parameters; 2 scatters them in every micro-batch;
    3 gathers parameters forward and backward, too.
    """
    scattered = where(zero == 2, microbatches, 1) * gradient
    return where(zero >= 3, microbatches * (2 * weight + gradient), where(zero >= 1, scattered + weight, 2 * gradient))
