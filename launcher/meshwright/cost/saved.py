"""Bytes that a layer keeps of a micro-batch for its backward pass, and what CUDA graphs hold beside it.

All captures of a rank share one pool, in the order of the schedule (megatron/core/transformer/cuda_graphs.py:2586, TE's
``_order``), which no tensor outside can use. What graphs save is what layers save, and their static inputs are the
tensors that the norms keep.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.cost import tiles
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.launches import is_captured
from meshwright.cost.numbers import Number, where
from meshwright.model.layers import LayerKind, parts
from meshwright.model.operations import Operation, Tensor

__all__ = [
    "FEED_FORWARD",
    "beside",
    "context_copies",
    "layer_input",
    "pages_on_host",
    "room",
    "saved",
    "static_tensors",
    "unpaged",
]


def saved(s: Scene, operations: Sequence[Operation]) -> Number:
    """Bytes that one layer keeps of one micro-batch, under the layout's recomputation."""
    each = [(o, t) for o in operations for t in o.saved if not tiles.in_tiles(s, o)]
    tensors = [(t, t.on_rank(s.degrees) * room(s, o)) for o, t in each]
    sequence = s.layout.training.sequence
    whole = [size * sequence if t.squared else size for t, size in tensors]
    none = sum(size for size, (_, t) in zip(whole, each, strict=True) if not t.entering)
    kept = sum(size for size, (o, t) in zip(whole, each, strict=True) if _stays(s, o, t))
    chosen = where(s.layout.recompute == 1, kept, none)
    return s.tokens * (chosen + tiles.input_width(s, operations)) * s.width / 2


def _stays(s: Scene, o: Operation, t: Tensor) -> bool:
    """Whether ``t``, which ``o`` keeps, is there under selective recomputation: what enters a module only for that."""
    modules = s.layout.spec.parallelism.recompute_modules or ("core_attn",)
    freed = any(module in modules for module in t.recompute.split()) and not _leaves_a_graph(s, o)
    return t.entering in ("", *modules) and not freed


def _leaves_a_graph(s: Scene, o: Operation) -> bool:
    """Whether the norm before the experts ends in a static tensor of the router's graph, which nothing frees.

    Megatron then recomputes it no more, but where a graph sorts the tokens for all-to-all or projects them down
    (megatron/core/transformer/transformer_layer.py:457, ``can_recompute_pre_mlp_layernorm_for_cudagraph``).
    """
    if o.name != "mlp.norm" or "router" not in s.framework.captured or s.layout.model.moe is None:
        return False
    options, graphs = s.layout.backend.megatron, s.layout.backend.megatron.cuda_graphs
    sorts = options.moe_dispatcher == "alltoall" or bool(s.layout.model.moe.latent)
    return graphs.kind == "transformer_engine" and not ("moe_preprocess" in graphs.modules and sorts)


def room(s: Scene, o: Operation) -> float:
    """Of what an expert keeps, times the tokens it would get were they dealt evenly: its pages, else its capacity."""
    return s.framework.expert_pages or s.framework.expert_room if o.name.startswith("experts.") else 1.0


def layer_input(s: Scene) -> Number:
    """Bytes of what enters a layer, of one micro-batch: all that full recomputation keeps of it."""
    return s.width * s.layout.model.hidden * s.tokens / s.degrees.sequence


def context_copies(s: Scene, kind: LayerKind) -> Number:
    """Attention's output on the other side of its exchange, where it is exchanged (SimuMax's four rows had it so).

    Keys that go round a ring leave the output where it is: what the ring keeps is what it returns
    (transformer_engine/pytorch/attention/dot_product_attention/context_parallel.py, ``AttnFuncWithCPAndKVP2P``), while
    gathered keys had it in two halves and whole (until 2.9 ``AttnFuncWithCPAndKVAllGather``).
    """
    exchanged = s.framework.exchanges_heads or s.layout.spec.parallelism.cp_comm != "p2p"
    width = sum(part.exchange(s.layout.model).output for part in parts(kind))
    return exchanged * (s.layout.cp > 1) * 2.0 * width * s.tokens / s.degrees.tp


FEED_FORWARD = ("router", "dispatch", "experts.", "combine", "shared_experts.", "mlp.")
"""What a layer has behind attention, by the beginnings of its operations' names."""


def beside(s: Scene, load: Load) -> Number:
    """Two micro-batches side by side hold what attention keeps of one layer twice, before one is freed.

    Not where attention's backward runs before the other's experts (``ep_overlap_early_attn_memory_release``,
    megatron/core/models/common/model_chunk_schedule_plan.py:268). Inferred from that order.
    """
    if not s.layout.spec.parallelism.overlap_ep or s.layout.backend.megatron.experts.early_release:
        return 0 * load.layers
    mixers = (tuple(o for o in operations if not o.name.startswith(FEED_FORWARD)) for operations in s.layers)
    return load.largest(saved(s, operations) for operations in mixers)


def static_tensors(s: Scene, load: Load) -> Number:
    """Bytes of graphs by layer: each layer's, of every micro-batch in flight."""
    if not s.framework.captured or s.framework.captures_all or not s.framework.holds_graphs:
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
    if not s.framework.expert_pages:
        return 0 * load.layers
    return s.framework.expert_room * load.largest(_dealt(s, each) for each in s.layers)


def pages_on_host(s: Scene, load: Load) -> Number:
    """Pinned bytes for what does not fit the pages on the GPU, of all micro-batches in flight.

    As large as they are told to be, full or not (megatron/core/transformer/moe/paged_stash.py:86).
    """
    if not s.framework.expert_pages:
        return 0 * load.layers
    part = s.layout.backend.megatron.experts.stash_host
    return part * load.in_flight * load.total(_dealt(s, each) for each in s.layers)


def _dealt(s: Scene, operations: Sequence[Operation]) -> Number:
    """Bytes that a layer's experts keep of a micro-batch whose tokens are dealt evenly."""
    return saved(s, tuple(o for o in operations if o.name.startswith("experts."))) / s.framework.expert_pages
