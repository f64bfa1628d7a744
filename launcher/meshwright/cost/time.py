"""Seconds of one step: compute, exposed communication, pipeline bubble, optimizer.

The pipeline's time is a lower bound that is exact for even stages (see ``pipeline_time``), whatever the split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from meshwright.cost import data_parallel, gathered, messages, offload
from meshwright.cost.collectives import (
    group,
    pipeline_group,
    point_to_point,
    ring,
)
from meshwright.cost.compute import Seconds, head
from meshwright.cost.data_parallel import Held, runs
from meshwright.cost.inputs import Load, Scene, recomputed_part
from meshwright.cost.layer_time import LayerTime, Triple, layer_time
from meshwright.cost.memory import stage_parameters
from meshwright.cost.numbers import Number, maximum, where
from meshwright.cost.pipeline_time import Placed, Work, bound
from meshwright.cost.stage_loads import Stages
from meshwright.spec.frozen import dataclass

__all__ = ["StageTime", "Step", "sends", "stage_times", "step", "times_of_one"]


@dataclass(frozen=True)
class StageTime:
    """Seconds of one micro-batch on one stage."""

    forward: Number
    backward: Number  # with what is computed again
    recompute: Number  # of these
    tensor: Triple  # of these, exposed tensor-parallel communication
    expert: Triple
    context: Triple

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
    offload: Number = 0.0  # exposed copies to and from the host, the CPU's optimizer, NVMe

    @property
    def total(self) -> Number:
        """Seconds of the step."""
        return sum(getattr(self, f.name) for f in fields(self))


def stage_times(s: Scene, loads: Iterable[Load]) -> list[StageTime]:
    """One micro-batch on each of several stages, whose layers are looked at once."""
    each = [layer_time(s, kind, operations) for kind, operations in zip(s.kinds, s.layers, strict=True)]
    ends = head(s)
    return [_stage_time(s, load, each, ends) for load in loads]


def _stage_time(s: Scene, load: Load, each: Sequence[LayerTime], ends: Seconds) -> StageTime:
    def total(kind: str, index: int) -> Number:
        return load.total(getattr(layer, kind)[index] for layer in each)

    compute = [
        load.total(getattr(layer.seconds, part) for layer in each) for part in ("forward", "backward", "recompute")
    ]
    part = where(s.layout.recompute == 2, recomputed_part(s, load), 1)
    compute[2] = part * compute[2]
    tensor, expert, context = (
        (total(kind, 0), total(kind, 1), part * total(kind, 2)) for kind in ("tensor", "expert", "context")
    )
    heads = load.head * (1 + load.mtp)
    tensor = (tensor[0] + heads * _gathered_logits(s), *tensor[1:])
    forward = compute[0] + heads * ends.forward + tensor[0] + expert[0] + context[0]
    again = compute[2] + tensor[2] + expert[2] + context[2] + heads * ends.recompute
    backward = compute[1] + heads * ends.backward + tensor[1] + expert[1] + context[1] + again
    return StageTime(forward, backward, compute[2], tensor, expert, context)


def _gathered_logits(s: Scene) -> Number:
    """Seconds in which tensor-parallel ranks that take the whole loss gather their parts of the logits, in 16 bits."""
    size = messages.logits(s)
    return (size > 0) * ring(s, group(s, s.layout.tp, 1), size)


def times_of_one(s: Scene, loads: Sequence[Load]) -> list[StageTime]:
    """``stage_times`` of one layout, whose loads are numbers; those that carry the same are computed once."""
    known = {load.work: load for load in loads}
    times = dict(zip(known, stage_times(s, known.values()), strict=True))
    return [times[load.work] for load in loads]


def _send(s: Scene) -> Number:
    """Seconds to hand one micro-batch's hidden states to the next stage."""
    r, g = s.layout, pipeline_group(s)
    size = messages.hidden(s) / (r.tp if s.framework.scattered_sends else s.degrees.sequence)
    return (r.pp > 1) * point_to_point(s, (g.near < g.size) + 0, size)


def step(s: Scene, stages: Stages) -> Step:
    """One optimizer step of the whole grid."""
    r, places = s.layout, stages.places
    whole, *rest = stage_times(s, (stages.whole, *stages.loads, *(place.ahead for place in places)))
    times, ahead = rest[: len(places)], rest[len(places) :]
    waits, latency = sends(s)
    works = [Work(t.forward + waits / 2, t.backward + waits / 2) for t in times]
    placed = [
        Placed(work, before.total + place.latest * waits / r.vpp, place.latest)
        for work, before, place in zip(works, ahead, places, strict=True)
    ]
    m, filled = r.microbatches, runs(s)
    least = filled * bound(placed, whole.total + r.pp * waits, r.pp, r.vpp, m / filled, latency)
    held = [stage_parameters(s, load) for load in stages.loads]

    def mean(seconds: Number) -> Number:
        return m * seconds / r.pp

    busy, recompute, tensor = mean(whole.total), mean(whole.recompute), mean(sum(whole.tensor))
    expert, context = mean(sum(whole.expert)), mean(sum(whole.context))
    return Step(
        compute=busy - recompute - tensor - expert - context,
        recompute=recompute,
        tensor=tensor,
        expert=expert,
        context=context,
        pipeline=m * waits,
        bubble=least - busy - m * waits,
        data=maximum(
            *(
                data_parallel.seconds(s, here, t.forward, t.backward) + gathered.exposed(s, load, t.forward, t.backward)
                for load, here, t in zip(stages.loads, held, times, strict=True)
            )
        ),
        optimizer=maximum(*(_optimizer(s, load, here) for load, here in zip(stages.loads, held, strict=True))),
        offload=offload.seconds(s, stages.loads, works),
    )


def sends(s: Scene) -> tuple[Number, Number]:
    """Seconds a stage waits for its two hand-overs of one micro-batch, and the latency of one nobody waits for."""
    r, once = s.layout, _send(s)
    interleaved = (1 - r.spec.parallelism.overlap_p2p) * 2.0 * r.vpp * once
    waits = where(r.vpp > 1, interleaved, 2 * once)
    return waits, where(waits > 0, 0 * once, once)


def _optimizer(s: Scene, load: Load, held: Held) -> Number:
    """Adam on the owned shard, what touches every gradient, and what Muon and SOAP do with matrices.

    Bytes: the norm reads and clipping rewrites the gradient (12), Adam reads it and three fp32 states and writes them
    (28), the weight is cast (6), the buffer zeroed (4); fp16 unscales and checks the gradient (8). What is summed whole
    after the backward is also normed and clipped whole.
    """
    r, gpu, e = s.layout, s.layout.cluster.accelerator, s.layout.cluster.efficiency
    everything, experts = held
    dense = everything - experts
    owned = where(r.zero >= 1, dense / s.owners[0] + experts / s.owners[1], everything) * (
        1 - s.framework.optimizer_away
    )
    rate = gpu.memory_bandwidth_gb_s * 1e9 * e.memory
    clipped = 12 * s.framework.reduces_after
    whole = (12 if r.training.precision == "fp16" else 4) + clipped
    adam = ((46 - clipped) * owned + whole * everything) / rate + e.step_ms * 1e-3
    return adam + _of_matrices(s, load)


def _of_matrices(s: Scene, load: Load) -> Number:
    name = s.layout.training.optimizer.name
    if name == "muon":
        from meshwright.cost import muon

        return muon.multiplying(s, load) + muon.gathering(s, load)
    if name == "soap":
        from meshwright.cost import soap

        return soap.turning(s, load)
    return 0
