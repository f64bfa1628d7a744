"""What CUDA graphs hold beside what layers keep: outputs and masks of each capture, experts' rooms of one size.

All captures of a rank share one pool, in the order of the schedule (megatron/core/transformer/cuda_graphs.py:2586, TE's
``_order``), which no tensor outside can use. What graphs save is what layers save, and their static inputs are the
tensors that the norms keep.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.cost.inputs import Load, Scene
from meshwright.cost.launches import is_captured
from meshwright.cost.numbers import Number
from meshwright.cost.saved import layer_input, saved
from meshwright.model.operations import Operation

__all__ = ["static_tensors", "unpaged"]


def static_tensors(s: Scene, load: Load) -> Number:
    """Bytes of graphs by layer: each layer's, of every micro-batch in flight."""
    if not s.framework.captured or s.framework.captures_all:
        return 0 * load.layers
    return load.in_flight * load.total(_outputs(s, each) + _mask(s, each) for each in s.layers)


def _outputs(s: Scene, operations: Sequence[Operation]) -> Number:
    """What the layer gives, or its shared experts, which stays until that micro-batch's backward.

    The next graph copies it (transformer_engine/pytorch/graph.py:883, ``make_weak_ref``); what attention and the router
    give is kept by what comes next, graph or not.
    """
    last = [o for o in operations if o.name != "residual"][-1]
    return is_captured(s, last) * layer_input(s)


def _mask(s: Scene, operations: Sequence[Operation]) -> Number:
    """A byte for each pair of tokens, which attention's graph reads though its kernels make their own.

    ``get_layer_static_inputs`` (megatron/core/transformer/transformer_layer.py:1116) makes it whatever the data loader
    does; later ones leave it out where that makes none (NVIDIA/Megatron-LM#5173).
    """
    made = s.layout.backend.megatron.cuda_graphs.kind == "transformer_engine"
    inside = any(o.name.startswith("attention.") and is_captured(s, o) for o in operations)
    return made * inside * s.tokens * s.layout.training.sequence


def unpaged(s: Scene, load: Load) -> Number:
    """Bytes of one layer's experts in rooms of their capacity, before what is in them goes to pages and behind it."""
    pages, room = s.framework.expert_pages, s.framework.expert_room
    if not pages:
        return 0 * load.layers
    experts = (tuple(o for o in each if o.name.startswith("experts.")) for each in s.layers)
    return room / pages * load.largest(saved(s, each) for each in experts)
