"""Activations that wait on the host: what they free on the GPU, take there, and take of the link.

Megatron copies the inputs of named modules out during the forward pass and back ahead of their backward
(megatron/core/pipeline_parallel/fine_grained_activation_offload.py), or all that a number of layers keep
(``--cpu-offloading-num-layers``).
"""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.cost.inputs import Load, Scene
from meshwright.cost.numbers import Number, maximum, minimum
from meshwright.model.operations import Operation

__all__ = ["coming", "copied", "leaving", "offloads_activations"]

_SAVED_BY = {
    "attn_norm": "attention.norm",
    "qkv_linear": "attention.qkv",
    "core_attn": "attention.core",
    "attn_proj": "attention.out",
    "mlp_norm": "mlp.norm",
    "expert_fc1": "experts.up",
    "moe_act": "experts.activation",
    "fused_group_mlp": "experts.",
}
"""The operation whose saved tensors are the module's input, by the beginning of its name."""

_BESIDE = 2  # layers whose copies are under way


def offloads_activations(s: Scene) -> bool:
    """Whether any leave the GPU."""
    offload = s.layout.backend.megatron.activation_offload
    return s.layout.backend.name == "megatron" and bool(offload.modules or offload.layers)


def copied(s: Scene, load: Load) -> Number:
    """Bytes of one micro-batch that leave the GPU on the stage ``load``."""
    offload = s.layout.backend.megatron.activation_offload
    if offload.layers:
        everything = load.total(_bytes(s, operations, ("",)) for operations in s.layers)
        return everything * minimum(1, offload.layers / maximum(1, load.layers))
    return offload.fraction * load.total(_bytes(s, each, _begins(s, each)) for each in s.layers)


def _begins(s: Scene, operations: Iterable[Operation]) -> tuple[str, ...]:
    """Of one layer, but for norms at the edge of a graph, which Megatron leaves on the GPU.

    A graph of attention holds the norm before it, and the one behind it ends a graph or begins another
    (megatron/core/transformer/transformer_layer.py:1459).
    """
    options = s.layout.backend.megatron
    graphs, modules = set(options.cuda_graphs.modules), options.activation_offload.modules
    routed = any(o.name == "router" for o in operations)
    edge = graphs & {"attn", "moe_router"} if routed else len(graphs & {"attn", "mlp"}) == 1
    stays = {"attn_norm": "attn" in graphs, "mlp_norm": bool(edge)}
    return tuple(_SAVED_BY[module] for module in modules if not stays.get(module, False))


def leaving(s: Scene, load: Load) -> Number:
    """Bytes that the GPU does not hold at its peak: of all micro-batches in flight, but for modules under way."""
    if not offloads_activations(s):
        return 0 * load.layers
    everything = copied(s, load) * load.in_flight
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
    return _BESIDE * copied(s, load) / maximum(1, load.layers)


def _bytes(s: Scene, operations: Iterable[Operation], begins: tuple[str, ...]) -> Number:
    """Of one layer and micro-batch; attention's scores, where they are kept at all, stay."""
    tensors = (t for o in operations if o.name.startswith(begins) for t in o.saved if not (t.squared or t.entering))
    return sum(t.on_rank(s.degrees) for t in tensors) * s.tokens * s.width / 2
