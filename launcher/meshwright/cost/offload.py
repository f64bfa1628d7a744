"""A node's host and disks: bytes of what is there, and the seconds a step waits for what leaves the GPU.

Bytes follow ``model.offload`` and ``cost.activation_offload``. Copies of gradients run beside the backward pass where
they are pinned and ``overlap_grad_reduce`` is set; the CPU's Adam, the new weights and the disks wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshwright.cost.activation_offload import copied, offloads_activations
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.cost.pipeline_time import Work
from meshwright.cost.saved import pages_on_host
from meshwright.model.offload import GRADIENT, optimizer_part, summed_bytes, weight_bytes
from meshwright.rules import Layout
from meshwright.rules.host import (
    nvme_bytes,
    offload,
    offloaded_bytes,
    offloads,
    owned,
    process_bytes,
    ranks_of_node,
    save_bytes,
    stages_whole,
    worker_bytes,
)
from meshwright.spec.frozen import dataclass

__all__ = ["Host", "host", "notes", "seconds"]

_PINNED, _PAGEABLE = 0.8, 0.25
"""Parts of the link's bandwidth that copies reach. Ours: the usual 25 of 31.5 and 6 to 8 GB/s on PCIe 4."""

_STEPPED = 0.5
"""Part of the host's bandwidth that DeepSpeed's Adam reaches. Ours."""

_TORCH = 6
"""PyTorch's Adam on the CPU takes 5 to 7 times as long (deepspeed.ops.adam.DeepSpeedCPUAdam)."""

_ADAM, _AROUND = 28, 14
"""Bytes that Adam moves of a parameter (gradient, master and moments read, all but the first written); unscaling and
clipping (8) and the cast of the new weight (6)."""


@dataclass(frozen=True)
class Host:
    """Bytes on the fullest node. ``pinned`` are of ``memory`` and cannot be paged out; see ``rules.host``."""

    ranks: float  # their processes
    workers: float  # that load data
    saving: float  # copies while a checkpoint is written
    states: float  # offloaded: parameters, gradients, the optimizer's
    activations: float  # offloaded, and pages for experts' that overflow
    pinned: float
    nvme: float

    @property
    def memory(self) -> float:
        """In all."""
        return self.ranks + self.workers + self.saving + self.states + self.activations


def host(s: Scene, loads: Sequence[Load]) -> Host:
    """What one node keeps in its own memory, were all its ranks of the stage that keeps most."""
    r = s.layout
    offloaded = offloads_activations(s)
    kept = max((copied(s, load) * load.in_flight if offloaded else 0) + pages_on_host(s, load) for load in loads)
    activations, saving = float(ranks_of_node(r) * kept), float(save_bytes(r))
    return Host(
        ranks=float(process_bytes(r)),
        workers=float(worker_bytes(r)),
        saving=saving,
        states=float(offloaded_bytes(r)),
        activations=activations,
        pinned=_pinned(r) + activations + saving * stages_whole(r),
        nvme=float(nvme_bytes(r)) if offloads(r) else 0.0,
    )


def _pinned(r: Layout) -> float:
    """Of what is offloaded, but for activations."""
    if not offloads(r):
        return 0.0
    states = offload(r)
    return float(ranks_of_node(r) * (states.pinned * owned(r) + states.buffers))


def seconds(s: Scene, loads: Sequence[Load], times: Sequence[Work]) -> Number:
    """Of one step, beside compute: what is left of copies, the CPU's Adam, the disks. 0 where the cluster is silent."""
    r, time = s.layout, times[0]
    if r.cluster.host_link_gb_s is None:
        return 0 * time.forward
    waited = _activations(s, loads, times) if offloads_activations(s) else 0 * time.forward
    if not offloads(r):
        return waited
    if r.backend.name == "megatron":
        return waited + _hybrid(s)
    return waited + _stalled(s, time) + _weights(s, time) + _swapped(s)


def _stalled(s: Scene, time: Work) -> Number:
    """What a step waits for the optimizer's host: gradients there, its step, new weights back.

    SuperOffload steps each sub-group as its gradients come, beside the last backward pass; the last one has nothing to
    run beside. Where gradients are clipped it waits for their norm, and all come after the backward
    (runtime/superoffload/superoffload_stage3.py:170). ZenFlow does it all, but for the columns that the GPU steps, once
    in ``update_interval`` steps, and beside these where it overlaps.
    """
    options, gradients, stepped = s.layout.backend.deepspeed, _gradients(s, time), _stepped(s) + _new_weights(s)
    if options.super_offload:
        groups, slower = maximum(1, owned(s.layout) / options.sub_group_size), stepped / options.super_offload_cores
        beside = 0 if s.layout.training.optimizer.clip else time.backward
        return gradients + maximum(slower / groups, slower - beside)
    z = options.zenflow
    if z.topk is None:
        return gradients + stepped
    each = (1 - z.topk) * stepped / z.update_interval
    return (1 - z.topk) * gradients + (maximum(0, each - time.total) if z.overlap else each)


def notes(s: Scene) -> Iterator[str]:
    """What of this a plan should know."""
    r, o = s.layout, s.layout.backend.deepspeed
    if not offloads(r) and not offloads_activations(s):
        return
    if r.cluster.host_link_gb_s is None:
        yield "offload takes no time here: cluster.host_link_gb_s is not stated"
    elif offloads(r) and _steps_there(r) and r.cluster.host_memory_gb_s is None:
        yield "the CPU's Adam takes no time here: cluster.host_memory_gb_s is not stated"
    if r.cluster.host_memory_gib == 0:
        yield "whether the host holds what is offloaded is not checked: cluster.host_memory_gib is not stated"
    if r.backend.name != "deepspeed":
        return
    if o.super_offload and owned(r) <= o.sub_group_size:
        yield "SuperOffload steps a rank's only sub-group behind the backward pass: a smaller sub_group_size makes more"
    if o.super_offload and r.training.optimizer.clip:
        yield (
            "SuperOffload steps after the backward pass, for it clips gradients, whose norm comes last "
            "(runtime/superoffload/superoffload_stage3.py:170); training.optimizer.clip=0 lets it step beside"
        )
    elif o.super_offload:
        yield (
            "SuperOffload steps before all gradients are known to be finite: a step where they are not is taken back, "
            f"which takes the CPU {float(_stepped(s) / o.super_offload_cores):.3g} s more, and left out"
        )
    if o.zenflow.topk is not None:
        yield (
            "ZenFlow trains another way than Adam on every gradient: what it saves is ours, from its schedule; its "
            "authors measured up to 5 times ZeRO-Offload's speed (arXiv:2505.12242)"
        )
    ratio, part = o.offload_optimizer.ratio, float(optimizer_part(o, owned(r)))
    if o.offload_optimizer.device != "none" and abs(part - ratio) > 0.05:
        yield (
            f"{part:.0%} of the optimizer leaves the GPU, not {ratio:.0%}: DeepSpeed moves whole sub-groups of "
            f"{o.sub_group_size:,} elements; a smaller backend.deepspeed.sub_group_size comes nearer"
        )


def _steps_there(r: Layout) -> bool:
    """Whether the CPU steps any of the optimizer."""
    return r.backend.name == "megatron" or r.backend.deepspeed.offload_optimizer.device != "none"


def _copied(s: Scene, size: Number, pinned: bool) -> Number:
    """Seconds of ``size`` bytes of one rank between its GPU and the host."""
    return size / (s.layout.cluster.host_link_gb_s * 1e9 * (_PINNED if pinned else _PAGEABLE))  # type: ignore[operator]


def _gradients(s: Scene, time: Work) -> Number:
    """Sums go to the host and, from the second micro-batch on, come back to be added to; fp32 copies follow at the end.

    At stages 1 and 2 sums in fp32 of 16-bit gradients stay on the GPU, at stage 1 all do (see ``model.offload``).
    """
    r, o, t = s.layout, s.layout.backend.deepspeed.offload_optimizer, s.layout.training
    if o.device == "none":
        return 0 * time.forward
    n, m, each = owned(r), r.microbatches, summed_bytes(t)
    below = where((r.zero == 2) & (each == weight_bytes(t)) & (m > 1), (2 * m - 1) * each, 0)
    sums = where(r.zero == 3, (2 * m - 1) * each, below)
    copied = _copied(s, n * (sums + GRADIENT * optimizer_part(r.backend.deepspeed, n)), o.pin_memory)
    beside = o.pin_memory and r.spec.parallelism.overlap_grad_reduce
    return copied - beside * minimum(copied, m * time.backward)


def _activations(s: Scene, loads: Sequence[Load], times: Sequence[Work]) -> Number:
    """Copies out run beside the forward and copies back beside the backward; of the slowest stage, what is longer."""
    pairs = zip((_copied(s, copied(s, load), True) for load in loads), times, strict=True)
    return s.layout.microbatches * maximum(
        *(maximum(0, once - time.forward) + maximum(0, once - time.backward) for once, time in pairs)
    )


def _hybrid(s: Scene) -> Number:
    """Megatron's: fp32 gradients down, torch's fused Adam on the CPU, new weights up; at once where it overlaps."""
    r, o = s.layout, s.layout.backend.megatron.optimizer_offload
    copies = _copied(s, 2 * GRADIENT * o.fraction * owned(r), True)
    stepped = _stepped(s)
    return maximum(copies, stepped) if o.overlap else copies + stepped


def _stepped(s: Scene) -> Number:
    """The CPU's Adam on the part that left, all ranks of a node at once."""
    r = s.layout
    if r.cluster.host_memory_gb_s is None:
        return 0 * r.dp
    slow = r.backend.name == "deepspeed" and r.backend.deepspeed.torch_adam
    moved = _AROUND + _ADAM * (_TORCH if slow else 1)
    rate = r.cluster.host_memory_gb_s * 1e9 * _STEPPED / ranks_of_node(r)
    return owned(r) * s.framework.optimizer_away * moved / rate


def _new_weights(s: Scene) -> Number:
    """They return to the GPU: stage 3 casts them into a buffer that is not pinned, and leaves offloaded ones there."""
    r, o = s.layout, s.layout.backend.deepspeed
    size = owned(r) * optimizer_part(o, owned(r)) * weight_bytes(r.training)
    returned = where(r.zero == 3, _copied(s, size, False), _copied(s, size, o.offload_optimizer.pin_memory))
    return returned * (o.offload_param.device == "none")


def _weights(s: Scene, time: Work) -> Number:
    """Offloaded parameters come for the forward and again for the backward, ahead of their use."""
    r, device = s.layout, s.layout.backend.deepspeed.offload_param.device
    if device == "none":
        return 0 * time.forward
    size = owned(r) * weight_bytes(r.training)
    once = _copied(s, size, True) + (device == "nvme") * _disk(s, size, 0)
    left = (maximum(0, once - window) for window in (time.forward, time.backward))
    return r.microbatches * sum(left)


def _swapped(s: Scene) -> Number:
    """States and gradients are read from NVMe, sub-group by sub-group, and written; gradients were written before."""
    r, o = s.layout, s.layout.backend.deepspeed
    if o.offload_optimizer.device != "nvme":
        return 0 * r.dp
    states = offload(r).nvme - weight_bytes(r.training) * (o.offload_param.device == "nvme")
    new_weights = weight_bytes(r.training) * (o.offload_param.device == "nvme")
    return _disk(s, owned(r) * states, owned(r) * (states + new_weights))


def _disk(s: Scene, read: Number, written: Number) -> Number:
    """Seconds of one rank's bytes, all ranks of a node at once; none where the cluster does not say."""
    c, ranks = s.layout.cluster, ranks_of_node(s.layout)
    if c.nvme_read_gb_s is None or c.nvme_write_gb_s is None:
        return 0 * ranks
    return ranks * (read / c.nvme_read_gb_s + written / c.nvme_write_gb_s) / 1e9
