"""Seconds of one layer and of the communication of its ranks that nothing hides."""

from __future__ import annotations

from meshwright.cost import messages
from meshwright.cost.collectives import Group, all_to_all, context_group, context_groups, group, ring, round_trip
from meshwright.cost.compute import Seconds, layer, weight_gradients
from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.cost.recomputation import needless
from meshwright.model.layers import LayerKind
from meshwright.model.operations import Operation
from meshwright.spec.frozen import dataclass

__all__ = ["LayerTime", "Triple", "layer_time"]

Triple = tuple[Number, Number, Number]  # forward, backward, computed again


@dataclass(frozen=True)
class LayerTime:
    """One layer with its communication, forward and backward."""

    seconds: Seconds
    tensor: Triple
    expert: Triple
    context: Triple


def layer_time(s: Scene, kind: LayerKind, operations: tuple[Operation, ...]) -> LayerTime:
    """Of one kind of layer, for one micro-batch."""
    seconds = layer(s, operations)
    idle = seconds.idle
    tensor, idle = _hidden(_tensor(s, kind), idle)
    sent = _expert(s, kind, operations)
    expert, idle = _hidden(sent, idle)
    expert = maximum(expert[0], _back(seconds, sent[0])), *expert[1:]
    context, _ = _hidden(_context(s, kind), idle)
    return LayerTime(seconds, tensor, expert, context)


def _hidden(seconds: Triple, idle: Triple) -> tuple[Triple, Triple]:
    """Communication fills the time in which the device waits for the host: what is left of both."""
    (a, b, c), (x, y, z) = seconds, idle
    left = maximum(0, a - x), maximum(0, b - y), maximum(0, c - z)
    return left, (maximum(0, x - a), maximum(0, y - b), maximum(0, z - c))


def _back(seconds: Seconds, sent: Number) -> Number:
    """Seconds by which what experts send back, half of ``sent``, ends later than a forward that waits for counts.

    The next layer's attention waits for it, and so does the host, for the next counts.
    """
    return (seconds.behind > 0) * maximum(0, seconds.behind + sent / 2 - seconds.forward)


def _tensor(s: Scene, kind: LayerKind) -> Triple:
    """Exposed tensor-parallel time of a layer.

    Without sequence parallelism: all-reduces, of which the backward's run beside the weight gradients. With it:
    all-gathers on entering and reduce-scatters on leaving; backward, what was gathered is gathered again, and both that
    and the scatter on the way out run beside products.
    """
    r, sizes = s.layout, messages.tensor(s, kind)
    hidden = r.cluster.efficiency.overlap
    beside = hidden * s.framework.overlaps_gradients
    enter, leave, gradients, returned = (
        sum(ring(s, group(s, r.tp, 1), size) for size in each)
        for each in (sizes.entering, sizes.leaving, sizes.gradients, sizes.returned)
    )
    gathers, scatters = (1 - hidden * on for on in _overlaps(s))
    forward = enter * gathers + leave * scatters
    backward = where(r.sp, gradients * gathers + (1 - beside) * (enter + returned), (enter + leave) * (1 - beside))
    on = (r.tp > 1) + 0
    return on * forward, on * backward, on * (r.recompute == 2) * forward


def _overlaps(s: Scene) -> tuple[bool, bool]:
    """Whether what products take is gathered beside them, and what they give scattered."""
    on, buffers = s.layout.spec.parallelism.overlap_tp, s.layout.backend.megatron.tp_overlap
    return on and buffers.gather, on and buffers.scatter


def _expert(s: Scene, kind: LayerKind, operations: tuple[Operation, ...]) -> Triple:
    """Dispatch and combine: one all-to-all each, and as many backward; etp gathers and scatters besides.

    Shared experts may run beside them, weight gradients beside the backward's.
    """
    r, overlap = s.layout, s.layout.cluster.efficiency.overlap
    if not messages.routed(kind):
        return 0, 0, 0
    size, g = messages.expert(s), group(s, r.ep, r.etp)
    exchange = (r.ep > 1) * _exchange(s, g, size)
    gather = (r.etp > 1) * ring(s, group(s, r.etp, 1), size * r.etp)
    hidden = overlap * _side_by_side(s)
    once = (exchange + 2 * gather) * (1 - hidden)
    back = once * (1 - (hidden > 0) * overlap * r.backend.megatron.delay_wgrad)
    shared, gradients = _shared_beside(s, operations), _gradients_beside(s, operations)
    forward = once - minimum(overlap * once, shared)
    backward = back - minimum(overlap * back, 2 * shared) - minimum(overlap * back / 2, gradients)
    half = (s.layout.recompute == 2) * ("combine" in needless(s, operations)) / 2
    return forward, backward, (messages.again(s, "moe") - half) * forward


def _side_by_side(s: Scene) -> float:
    """Part of the all-to-alls that runs beside another micro-batch.

    Where attention's backward comes early, nothing is left to hide the forward's combine and the backward's dispatch
    (core/model_parallel_config.py:360).
    """
    early = s.layout.backend.megatron.experts.early_release
    return (0.5 if early else 1.0) * s.layout.spec.parallelism.overlap_ep


_WIDE_DEEPEP = (400e9, 190e9)
"""Bytes a second of DeepEP's dispatch and combine over more NVLink peers than it was made for, with 24 multiprocessors
on GB200 (Megatron-LM@1d9edcf8 docs/discussions/deepseek-v3-gb200-optimization, section 2.2.1)."""
_DEEPEP_PEERS = 8  # NUM_MAX_NVL_PEERS (deepseek-ai/DeepEP csrc/kernels/configs.cuh)


_DEEPEP_BETWEEN = 0.9
"""Of a link between nodes, what DeepEP reaches: 61 and 90 GB/s with what stays on the node, in four and in two of them
with 50 GB/s of each (deepseek-ai/DeepEP README, "Performance")."""


def _exchange(s: Scene, g: Group, size: Number) -> Number:
    """A dispatch and a combine; the backward of each is the other's forward."""
    options, between = s.layout.backend.megatron, messages.between_nodes(s, g)
    deepep = options.moe_dispatcher == "flex" and options.moe_flex_backend == "deepep"
    if not deepep or between is None or s.layout.backend.name != "megatron":
        return 2 * all_to_all(s, g, size, between)
    return _deepep(s, g, messages.copies(s, g), between)


def _deepep(s: Scene, g: Group, size: Number, between: Number) -> Number:
    """``size``: bytes of a rank's tokens, once for each rank with experts of theirs (csrc/kernels/intranode.cu)."""
    sent = between * s.layout.cluster.efficiency.inter_link / _DEEPEP_BETWEEN
    twice = 2 * all_to_all(s, g, minimum(size, messages.expert(s)), sent)
    wide = size * sum(1 / rate for rate in _WIDE_DEEPEP)
    return where(g.near > _DEEPEP_PEERS, maximum(twice, wide), twice)


def _shared_beside(s: Scene, operations: tuple[Operation, ...]) -> Number:
    """Seconds of the shared experts where they run beside the dispatch."""
    if not s.layout.backend.megatron.moe_shared_expert_overlap or s.layout.backend.name != "megatron":
        return 0
    shared = tuple(o for o in operations if o.name.startswith("shared_experts."))
    return layer(s, shared).forward if shared else 0


def _gradients_beside(s: Scene, operations: tuple[Operation, ...]) -> Number:
    """Seconds of the routed experts' weight gradients where they run beside the backward's dispatch."""
    if not s.layout.backend.megatron.experts.wgrad_beside_dispatch or s.layout.backend.name != "megatron":
        return 0
    return weight_gradients(s, (o for o in operations if o.name in ("experts.up", "experts.down")))


def _context(s: Scene, kind: LayerKind) -> Triple:
    """Key and value blocks travel the ring while attention computes on the last ones; a2a waits for its exchange."""
    r, (heads, rounds) = s.layout, context_groups(s)
    exchanged = all_to_all(s, heads, messages.keys(s, kind)) + all_to_all(s, heads, messages.queries(s, kind))
    keys = messages.keys(s, kind)
    gathers = r.spec.parallelism.cp_comm == "all_gather"
    went_round = ring(s, rounds, keys * rounds.size) if gathers else round_trip(s, rounds, keys)
    dealt = all_to_all(s, context_group(s), messages.dealt(s, kind))
    once = exchanged + dealt + (1 - r.cluster.efficiency.overlap) * went_round
    on = (r.cp > 1) + 0
    return on * once, on * 2 * once, on * messages.again(s, "core_attn") * once
