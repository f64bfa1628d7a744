"""What ranks with the same weights exchange, in bytes and exposed seconds: gradients reduced, parameters gathered."""

from __future__ import annotations

from dataclasses import replace

from meshwright.cost.collectives import beside, copies_groups, data_group, expert_data_group, group, hides, ring
from meshwright.cost.flows import Flow, flow, share
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.memory import stage_parameters
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.model.offload import sums_beside
from meshwright.rules import Layout

__all__ = ["Held", "between", "data_flow", "data_volume", "runs", "scatters", "second_copy", "seconds"]

Held = tuple[Number, Number]  # parameters of one rank of a stage, and of these routed experts'


def _gathered_by_muon(s: Scene, load: Load) -> tuple[Number, Number]:
    """By DeepSpeed's."""
    if s.layout.training.optimizer.name != "muon" or s.layout.backend.name != "deepspeed":
        return 0, 0
    from meshwright.cost import muon

    return muon.gathered(s, load)


def data_flow(s: Scene, load: Load) -> Flow:
    """Bytes of one rank of the stage ``load`` in a step."""
    everything, experts = stage_parameters(s, load)
    r = s.layout
    wide, narrow = data_group(s), expert_data_group(s)
    each = _volume(s)
    dense = everything - experts
    kind = _kind(s)
    sharded = (2 * r.microbatches + scatters(s)) * load.layers
    count = where(r.zero >= 3, sharded, where(r.zero >= 1, scatters(s) + 1, 1))
    size, whole = each * (share(wide) * dense + share(narrow) * experts), _gathered_by_muon(s, load)
    size = size + share(wide) * whole[0] + share(narrow) * whole[1]
    sent = flow(size, wide, kind, count * (wide.size > 1))
    return sent if r.spec.parallelism.optimizer_instances == 1 else _with_copies(s, sent, dense, experts)


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
    shards = share(far) * dense / s.sharers[0] + share(experts_far) * experts / s.sharers[1]
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


def second_copy(s: Scene, load: Load) -> Flow:
    """Of ZeRO++, gathered within the ranks that hold it."""
    r, ranks = s.layout, s.framework.secondary
    g, on = group(s, ranks + 0 * r.dp, r.tp), (ranks > 1) * (r.zero >= 3)
    times = on * (2 * r.microbatches - 1)
    size = times * (s.framework.gather_bytes or s.width) * stage_parameters(s, load)[0] * share(g)
    return flow(size, g, "all-gather", times * load.layers)


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


def seconds(s: Scene, held: Held, forward: Number, backward: Number) -> Number:
    """Exposed reduction of gradients and gathering of parameters of one stage.

    torch's pipelines wait for a chunk's reduction behind its last backward (pipelining/stage.py of 2.8,
    ``run_post_backward``), as its first forward does for its weights: one stage after the other, for what each hands
    over comes behind.
    """
    r, p = s.layout, s.layout.spec.parallelism
    each, after = s.framework.reduce_bytes, s.framework.reduces_after
    reduce, gather = _over_replicas(s, held, each), _over_replicas(s, held, s.framework.gather_bytes or s.width)
    hidden = hides(s)
    volume = where(r.zero >= 1, (1 + after) * reduce, (1 if s.framework.sums_in_switches else 2) * reduce)
    reduced = volume - p.overlap_grad_reduce * (1 - after) * minimum(hidden * volume, between(r, backward))
    gathered = gather - (s.framework.overlaps_gather + 0) * minimum(hidden * gather, between(r, forward))
    gathered = gathered * (1 - hidden * _with_step(s))
    once = scatters(s) * reduced + (r.zero >= 1) * runs(s) * gathered
    if s.framework.emptied_every:
        once = where(r.pp > 1, runs(s) * r.pp * (volume + gathered), once)
    alone = (s.replicas > 1) + 0
    each_pass = where(r.zero >= 3, _sharded(s, held, gather, forward, backward), once)
    return alone * (each_pass + _among_copies(s, held, backward))


def _among_copies(s: Scene, held: Held, backward: Number) -> Number:
    """Once a step the copies of a shard sum its gradients; or each steps a part, and all gather the new weights."""
    each = s.framework.reduce_bytes
    if s.owners is not s.sharers:
        each = (each + (s.framework.gather_bytes or s.width)) / 2
    shards = ((held[0] - held[1]) / s.sharers[0], held[1] / s.sharers[1])
    seconds = sum(ring(s, g, each * shard, passes=2) for g, shard in zip(copies_groups(s), shards, strict=True))
    hidden = s.layout.spec.parallelism.overlap_grad_reduce + 0
    many = s.layout.spec.parallelism.optimizer_instances > 1
    return many * (hidden * beside(s, seconds, backward) + (1 - hidden) * seconds)


def between(r: Layout, once: Number) -> Number:
    """Seconds beside which a stage's gradients are reduced, or its parameters gathered; ``once``: of a micro-batch.

    Interleaved, each chunk's go while a group of micro-batches passes the next chunk (megatron-core 0.19.2
    core/pipeline_parallel/schedules.py:1315 and :1419).
    """
    group = minimum(r.spec.parallelism.microbatch_group or r.pp, r.microbatches)
    return once * (1 + (r.vpp - 1) * group) / r.vpp


def _with_step(s: Scene) -> bool:
    """Whether what the forward does not hide of gathering runs beside the optimizer's step."""
    return s.layout.backend.name == "megatron" and s.layout.backend.megatron.gather_with_step


def _over_replicas(s: Scene, held: Held, each: float) -> Number:
    """Seconds to gather or scatter ``each`` byte of the stage's parameters over the ranks that share them."""
    everything, experts = held
    return ring(s, data_group(s), each * (everything - experts)) + ring(s, expert_data_group(s), each * experts)


def _sharded(s: Scene, held: Held, gather: Number, forward: Number, backward: Number) -> Number:
    """ZeRO-3: parameters gathered forward and backward, gradients scattered, in every micro-batch; mostly hidden.

    Where some ranks hold a second copy, only a step's first forward gathers from all (runtime/zero/stage3.py:2846).
    """
    r, ranks = s.layout, s.framework.secondary
    again = gather
    if ranks > 1:
        again = ring(s, group(s, ranks + 0 * r.dp, r.tp), (s.framework.gather_bytes or s.width) * held[0])
    scatter = _over_replicas(s, held, s.framework.scatter_bytes or s.framework.reduce_bytes)
    scatter = scatter * (2 if s.framework.reduces_whole else 1)
    ahead, behind = _side_by_side(s)
    first, later = (beside(s, ahead * one, forward) + (1 - ahead) * one for one in (gather, again))
    alone = beside(s, ahead * again, backward)
    both = beside(s, ahead * again + behind * scatter, backward) + (1 - behind) * scatter
    back = (r.microbatches - scatters(s)) * alone + scatters(s) * both + r.microbatches * (1 - ahead) * again
    return first + (r.microbatches - 1) * later + back


def _side_by_side(s: Scene) -> tuple[bool, bool]:
    """Whether parameters are gathered, and gradients scattered, beside compute: always by PyTorch's FSDP."""
    p, backend = s.layout.spec.parallelism, s.layout.backend
    always = backend.name == "megatron" and backend.megatron.fsdp == "torch"
    return always or p.overlap_param_gather, always or p.overlap_grad_reduce
