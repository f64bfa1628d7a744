"""Activations that wait on the host: what they free on the GPU, take there, and take of the link.

Megatron copies the inputs of named modules out during the forward pass and back ahead of their backward
(megatron/core/pipeline_parallel/fine_grained_activation_offload.py), or all that a number of layers keep
(``--cpu-offloading-num-layers``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from meshwright.cost.inputs import Load, Scene
from meshwright.cost.numbers import Number, maximum, minimum
from meshwright.cost.saved import room, saved
from meshwright.model.operations import Operation, Tensor

__all__ = ["coming", "copied", "leaving", "offloads_activations"]

_PROJECTED = ("attention.qkv", "attention.query", "attention.key", "attention.kv")

_READS = {
    "attn_norm": ("attention.norm",),
    "qkv_linear": _PROJECTED,
    "core_attn": ("attention.core",),
    "mlp_norm": ("mlp.norm",),
    "expert_fc1": ("experts.up",),
    "moe_act": ("experts.activation",),
    "fused_group_mlp": ("experts.",),
}
"""Operations that keep what a module reads, by the beginning of their names."""

_GIVES = {
    "qkv_linear": ("attention.norm", *_PROJECTED),
    "attn_proj": ("attention.core",),
    "fused_group_mlp": ("experts.",),
}
"""Operations that give it. Attention's output is read by its projection, too: without ``attn_proj`` it stays."""

_NORMS = ("attention.norm", "mlp.norm")

Part = Callable[[Operation, Tensor], Number]

_BESIDE = 2  # layers whose copies are under way


def offloads_activations(s: Scene) -> bool:
    """Whether any leave the GPU."""
    offload = s.layout.backend.megatron.activation_offload
    return s.layout.backend.name == "megatron" and bool(offload.modules or offload.layers)


def copied(s: Scene, load: Load) -> Number:
    """Bytes of one micro-batch that go to the host from the stage ``load``, computed again though some may be."""
    return _of_stage(s, load, _seen)


def _of_stage(s: Scene, load: Load, count: Callable[[Scene, Sequence[Operation]], Number]) -> Number:
    """Bytes that ``count`` finds in the inputs of named modules, or in all that some whole layers keep."""
    offload = s.layout.backend.megatron.activation_offload
    if offload.layers:
        part = minimum(1, offload.layers / maximum(1, load.layers))
        return part * load.total(count(s, _only(each, lambda *_: 1)) for each in s.layers)
    return offload.fraction * load.total(count(s, _only(each, _inputs(s, each))) for each in s.layers)


def _only(operations: Iterable[Operation], part: Part) -> tuple[Operation, ...]:
    """With these parts of their tensors alone."""
    return tuple(replace(o, saved=tuple(replace(t, size=t.size * part(o, t)) for t in o.saved)) for o in operations)


def _seen(s: Scene, operations: Sequence[Operation]) -> Number:
    """Bytes of one layer and micro-batch that hooks see (``on_save_for_backward``)."""
    each = sum(t.on_rank(s.degrees) * _rows(s, o, t) for o in operations for t in o.saved if not t.entering)
    return each * s.tokens * s.width / 2


def _rows(s: Scene, o: Operation, t: Tensor) -> Number:
    """Of a token: as many as an expert has room for, and of unfused attention's scores one for each key."""
    return room(s, o) * (s.layout.training.sequence if t.squared else 1)


def _large(s: Scene, o: Operation, t: Tensor) -> Number:
    """The part of ``t`` in tensors large enough to leave (fine_grained_activation_offload.py:993).

    Of 8 and 4 bits it is data and scales that are asked apart; the scales count with their data here.
    """
    widths, least = t.widths or (t.size / 2,), s.layout.backend.megatron.activation_offload.min_elements
    rows = t.on_rank(s.degrees) / t.size * _rows(s, o, t) * s.tokens if t.size else 0
    return sum(width * (width * rows >= least) for width in widths) / (sum(widths) or 1)


def _inputs(s: Scene, operations: Sequence[Operation]) -> Part:
    """What leaves of a tensor of one layer: as much of a named module's input as is large enough.

    A norm that is one module with the linear behind it is none of its own (``IdentityOp``): what it reads is the
    linear's.
    """
    modules = _away(s, operations)
    reads, gives = (tuple(name for m in modules for name in of.get(m, ())) for of in (_READS, _GIVES))
    alone = {o.name for o in operations for t in o.saved if t.recompute == "layernorm"}

    def is_input(o: Operation, t: Tensor) -> bool:
        if t.given:
            return o.name.startswith(gives)
        if o.name in _NORMS and o.name not in alone:
            return "qkv_linear" in modules and o.name == "attention.norm"
        return o.name.startswith(reads)

    return lambda o, t: _large(s, o, t) if is_input(o, t) else 0


def _away(s: Scene, operations: Sequence[Operation]) -> tuple[str, ...]:
    """Modules of one layer, but for norms at the edge of a graph, which Megatron leaves on the GPU.

    A graph of attention holds the norm before it, and the one behind it ends a graph or begins another
    (megatron/core/transformer/transformer_layer.py:1459).
    """
    options = s.layout.backend.megatron
    graphs, modules = set(options.cuda_graphs.modules), options.activation_offload.modules
    routed = any(o.name == "router" for o in operations)
    edge = graphs & {"attn", "moe_router"} if routed else len(graphs & {"attn", "mlp"}) == 1
    stays = {"attn_norm": "attn" in graphs, "mlp_norm": bool(edge)}
    return tuple(module for module in modules if not stays.get(module, False))


def leaving(s: Scene, load: Load) -> Number:
    """Bytes that the GPU does not hold at its peak: of all micro-batches in flight, but for modules under way.

    What is computed again anyway is not there a second time to leave.
    """
    if not offloads_activations(s):
        return 0 * load.layers
    everything = _of_stage(s, load, saved) * load.in_flight
    return everything if _whole_layers(s) else maximum(0, everything - _beside(s, load))


def coming(s: Scene, load: Load) -> Number:
    """Bytes of whole layers that come back during the backward pass.

    At the loss none of them is under way: the last was freed with the last layer's forward, and copies back begin with
    its backward (transformer_engine/pytorch/cpu_offload_v1.py, ``layer_window_map``).
    """
    return _beside(s, load) if offloads_activations(s) and _whole_layers(s) else 0 * load.layers


def _whole_layers(s: Scene) -> bool:
    return bool(s.layout.backend.megatron.activation_offload.layers)


def _beside(s: Scene, load: Load) -> Number:
    return _BESIDE * _of_stage(s, load, saved) / maximum(1, load.layers)
