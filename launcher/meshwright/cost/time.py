"""Seconds of one step: compute, exposed communication, pipeline bubble, optimizer.

The pipeline's time is a lower bound that is exact for even stages (see ``pipeline_time``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from meshwright.cost.collectives import all_to_all, group, point_to_point, ring
from meshwright.cost.compute import Seconds, head, layer
from meshwright.cost.memory import stage_parameters
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.cost.pipeline_time import Work, bound
from meshwright.cost.scene import Load, Scene

__all__ = ["StageTime", "Step", "sends", "stage_time", "step"]

Triple = tuple[Number, Number, Number]  # forward, backward, recompute


@dataclass(frozen=True)
class StageTime:
    """Seconds of one micro-batch on one stage."""

    forward: Number
    backward: Number  # with what is computed again
    recompute: Number  # of these
    tensor: Number  # of these, exposed tensor-parallel communication
    expert: Number
    context: Number

    @property
    def total(self) -> Number:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step. The parts add up to ``total``."""

    compute: Number
    recompute: Number
    tensor: Number
    expert: Number
    context: Number
    pipeline: Number  # exposed sends between stages
    bubble: Number  # idle: pipeline fill and drain, and waiting for slower stages
    data: Number  # exposed gradient reduction and parameter gathering
    optimizer: Number

    @property
    def total(self) -> Number:
        """Seconds of the step."""
        return sum(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class _Layer:
    """One layer with its communication, forward and backward."""

    seconds: Seconds
    tensor: Triple
    expert: Triple
    context: Triple


def stage_time(s: Scene, load: Load) -> StageTime:
    """One micro-batch on the stage ``load``."""
    dense = _layer(s, False)
    moe = _layer(s, True) if s.moe else dense
    ends = head(s)
    counts = ((load.dense + (0 if s.moe else load.mtp), dense), (load.moe + (load.mtp if s.moe else 0), moe))

    def total(kind: str, index: int) -> Number:
        return sum(n * getattr(each, kind)[index] for n, each in counts)

    compute = [
        sum(n * getattr(each.seconds, part) for n, each in counts) for part in ("forward", "backward", "recompute")
    ]
    tensor, expert, context = ([total(kind, i) for i in range(3)] for kind in ("tensor", "expert", "context"))
    heads = load.head * (1 + load.mtp)
    forward = compute[0] + heads * ends.forward + tensor[0] + expert[0] + context[0]
    again = compute[2] + tensor[2] + expert[2] + context[2]
    backward = compute[1] + heads * ends.backward + tensor[1] + expert[1] + context[1] + again
    return StageTime(forward, backward, compute[2], sum(tensor), sum(expert), sum(context))


def _layer(s: Scene, moe: bool) -> _Layer:
    seconds = layer(s, s.moe if moe else s.dense)
    idle = seconds.idle
    tensor, idle = _hidden(_tensor(s, moe), idle)
    expert, idle = _hidden(_expert(s, moe), idle)
    context, _ = _hidden(_context(s, seconds), idle)
    return _Layer(seconds, tensor, expert, context)


def _hidden(seconds: Triple, idle: Triple) -> tuple[Triple, Triple]:
    """Communication fills the time in which the device waits for the host: what is left of both."""
    (a, b, c), (x, y, z) = seconds, idle
    left = maximum(0, a - x), maximum(0, b - y), maximum(0, c - z)
    return left, (maximum(0, x - a), maximum(0, y - b), maximum(0, z - c))


def _tensor(s: Scene, moe: bool) -> Triple:
    """Exposed tensor-parallel time of a layer.

    Without sequence parallelism: two all-reduces forward, two backward that run beside the weight gradients. With it:
    two all-gathers and two reduce-scatters forward; backward two all-gathers, and two pairs that run beside GEMMs.
    """
    r, p = s.layout, s.layout.spec.parallelism
    size = 2 * r.model.hidden * s.tokens
    once = ring(s, group(s, r.tp, 1), size)
    hidden = r.cluster.efficiency.overlap
    beside = hidden * s.framework.overlaps_gradients
    pairs = 1 if moe else 2  # the experts' exchange is counted apart
    forward = pairs * 2 * once * (1 - hidden * (p.overlap_tp + 0))
    backward = where(r.sp, pairs * once * (1 + 2 * (1 - beside)), pairs * 2 * once * (1 - beside))
    on = (r.tp > 1) + 0
    return on * forward, on * backward, on * where(r.recompute == 2, forward, 0 * forward)


def _expert(s: Scene, moe: bool) -> Triple:
    """Dispatch and combine: one all-to-all each, and as many backward; etp gathers and scatters besides."""
    r = s.layout
    if not moe or r.model.moe is None:
        return 0, 0, 0
    size = 2 * r.model.moe.topk * r.model.hidden * s.tokens / r.tp
    exchange = (r.ep > 1) * all_to_all(s, group(s, r.ep, r.etp), size)
    gather = (r.etp > 1) * ring(s, group(s, r.etp, 1), size * r.etp)
    hidden = r.cluster.efficiency.overlap if r.spec.parallelism.overlap_ep else 0
    once = 2 * (exchange + gather) * (1 - hidden)
    return once, once, where(r.recompute == 2, once, 0 * once)


def _context(s: Scene, seconds: Seconds) -> Triple:
    """Key and value blocks travel the ring while attention computes on the last ones; a2a waits for its exchange."""
    r, model = s.layout, s.layout.model
    keys = 2 * model.kv_heads * model.head_dim if model.mla is None else 2 * model.heads * model.mla.v_dim
    size = 2 * s.tokens * keys / r.tp
    g = group(s, r.cp, r.tp)
    if r.spec.parallelism.cp_comm == "a2a":
        queries = 2 * model.heads * model.head_dim
        once = all_to_all(s, g, size) + all_to_all(s, g, 2 * s.tokens * queries / r.tp)
    else:
        once = (1 - r.cluster.efficiency.overlap) * ring(s, g, size * r.cp)
    on = (r.cp > 1) + 0
    return on * once, on * 2 * once, on * where(r.recompute == 2, once, 0 * once)


def _send(s: Scene) -> Number:
    """Seconds to hand one micro-batch's hidden states to the next stage."""
    r = s.layout
    size = 2 * r.model.hidden * s.tokens / (r.tp if s.framework.scattered_sends else s.degrees.sequence)
    inside = r.tp * r.cp * r.dp * r.pp <= s.domain
    return (r.pp > 1) * point_to_point(s, (1 - inside), size)


def step(s: Scene, first: Load, second: Load, last: Load) -> Step:
    """One optimizer step of the whole grid; stages between the first and the last do what the second does."""
    r = s.layout
    loads = (first, second, last)
    times = [stage_time(s, load) for load in loads]
    waits, latency = sends(s)
    works = [Work(t.forward + waits / 2, t.backward + waits / 2) for t in times]
    m = r.microbatches
    whole = bound(works[0], works[1], works[2], r.pp, r.vpp, m, latency)
    share = (1 / r.pp, maximum(0, r.pp - 2) / r.pp, (r.pp > 1) / r.pp)  # of the stages, each kind

    def mean(part: str) -> Number:
        return m * sum(weight * getattr(t, part) for weight, t in zip(share, times, strict=True))

    apart = [mean(part) for part in ("recompute", "tensor", "expert", "context")]
    busy = mean("total")
    recompute, tensor, expert, context = apart
    return Step(
        compute=busy - sum(apart),
        recompute=recompute,
        tensor=tensor,
        expert=expert,
        context=context,
        pipeline=m * waits,
        bubble=whole - busy - m * waits,
        data=maximum(*(_data(s, load, t) for load, t in zip(loads, times, strict=True))),
        optimizer=maximum(*(_optimizer(s, load) for load in loads)),
    )


def sends(s: Scene) -> tuple[Number, Number]:
    """Seconds a stage waits for its two hand-overs of one micro-batch, and the latency of one nobody waits for."""
    r, once = s.layout, _send(s)
    interleaved = (1 - r.spec.parallelism.overlap_p2p) * 2.0 * r.vpp * once
    waits = where(r.vpp > 1, interleaved, 2 * once)
    return waits, where(waits > 0, 0 * once, once)


def _data(s: Scene, load: Load, time: StageTime) -> Number:
    """Exposed reduction of gradients and gathering of parameters of one stage."""
    r, p = s.layout, s.layout.spec.parallelism
    everything, experts = stage_parameters(s, load)
    dense = everything - experts
    each = s.framework.reduce_bytes
    wide, narrow = group(s, s.replicas, r.tp), group(s, s.edp, r.etp * r.ep)
    reduce = ring(s, wide, each * dense) + ring(s, narrow, each * experts)
    gather = ring(s, wide, 2 * dense) + ring(s, narrow, 2 * experts)
    hidden = r.cluster.efficiency.overlap
    window = time.backward + (r.vpp > 1) * (r.pp - 1) * time.backward / r.vpp
    reduced = reduce - (p.overlap_grad_reduce + 0) * minimum(hidden * reduce, window)
    shown = where(r.zero >= 1, gather - (p.overlap_param_gather + 0) * minimum(hidden * gather, time.forward), reduce)
    once = reduced + where(r.zero >= 1, shown, reduced)
    sharded = _sharded(s, load, time)
    alone = (s.replicas > 1) + 0
    return alone * where(r.zero >= 3, sharded, once)


def _sharded(s: Scene, load: Load, time: StageTime) -> Number:
    """ZeRO-3: parameters gathered forward and backward, gradients scattered, in every micro-batch; mostly hidden."""
    r = s.layout
    everything, _ = stage_parameters(s, load)
    wide = group(s, s.replicas, r.tp)
    gather, scatter = ring(s, wide, 2 * everything), ring(s, wide, 4 * everything)
    hidden = r.cluster.efficiency.overlap
    left = maximum(gather * (1 - hidden), gather - time.forward)
    right = maximum((gather + scatter) * (1 - hidden), gather + scatter - time.backward)
    return r.microbatches * (left + right)


def _optimizer(s: Scene, load: Load) -> Number:
    """Adam on the owned shard, and what touches every gradient.

    Bytes: the norm reads and clipping rewrites the gradient (12), Adam reads it and three fp32 states and writes them
    (28), the weight is cast (6), the buffer zeroed (4); fp16 unscales and checks the gradient (8).
    """
    r, gpu, e = s.layout, s.layout.cluster.accelerator, s.layout.cluster.efficiency
    everything, experts = stage_parameters(s, load)
    dense = everything - experts
    owned = where(r.zero >= 1, dense / s.replicas + experts / s.edp, everything)
    rate = gpu.memory_bandwidth_gb_s * 1e9 * e.memory
    whole = 12 if r.training.precision == "fp16" else 4
    return (46 * owned + whole * everything) / rate + e.step_ms * 1e-3
