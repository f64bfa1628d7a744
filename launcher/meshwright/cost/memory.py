"""Bytes on one rank of a pipeline stage, by component, at the moment they are most.

Model states follow the ZeRO paper's accounting (Rajbhandari et al. 2020, section 3) with Megatron's fp32 gradients;
activations follow the operations' saved tensors (Korthikanti et al. 2022, section 4, is the unfused case).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from meshwright.cost import gathered, workspace
from meshwright.cost.activation_offload import coming, leaving
from meshwright.cost.buckets import buckets, reducing
from meshwright.cost.inputs import Load, Pair, Scene, built, recomputed_part
from meshwright.cost.numbers import GIB, Number, maximum, where
from meshwright.cost.saved import beside, context_copies, layer_input, saved
from meshwright.model.count import cuts_words
from meshwright.model.operations import embedding, final_norm, mtp_joint, parameters
from meshwright.spec.frozen import dataclass

__all__ = ["GIB", "Memory", "allocatable", "memories", "memory", "stage_parameters"]

USABLE = 0.945
"""Part of a GPU's memory that the allocator gets to use: the CUDA context, NCCL and fragmentation take the rest (set
where runs of Hagemann et al. 2023 begin to fail, on 80 GB)."""

_OUTSIDE = (1 - USABLE) * 79.2 * GIB
"""What the rest was there. Contexts and NCCL's buffers do not grow with a larger GPU's memory."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank. ``total`` is their sum."""

    weights: Number
    gradients: Number
    optimizer: Number
    activations: Number
    logits: Number  # output projection and loss, at the first backward; of predicting layers, too
    workspace: Number  # what one layer's backward needs beside the saved tensors, or the step in place of them all
    communication: Number  # buckets, gathered parameters, registered buffers
    framework: Number  # kernels' persistent buffers and library workspaces inside the allocator

    @property
    def total(self) -> Number:
        """Peak of allocated bytes."""
        return sum(getattr(self, f.name) for f in fields(self))


def allocatable(gib: float) -> float:
    """Bytes that the allocator gets of a GPU with ``gib`` GiB."""
    return gib * GIB - min((1 - USABLE) * gib * GIB, _OUTSIDE)


def memory(s: Scene, load: Load) -> Memory:
    """Peak memory of one rank of the stage ``load``."""
    return memories(s, (load,))[0]


def memories(s: Scene, loads: Iterable[Load]) -> tuple[Memory, ...]:
    """The same for several stages, whose layers are looked at once."""
    each = [saved(s, operations) + context_copies(s, kind) for kind, operations in zip(s.kinds, s.layers, strict=True)]
    return tuple(_memory(s, load, each) for load in loads)


def _memory(s: Scene, load: Load, each: Sequence[Number]) -> Memory:
    """``each``: bytes that a layer of each kind keeps of a micro-batch."""
    all_parameters, experts = stage_parameters(s, load)
    dense = all_parameters - experts
    f = s.framework
    zero = s.layout.zero
    activations, recomputed = _activations(s, load, each)
    logits = load.head * (workspace.logits(s) + load.mtp * workspace.predicted(s))
    passing = workspace.backward(s, load) + reducing(s) + recomputed + coming(s, load)
    working = maximum(0, passing - load.head * workspace.logits(s)) + beside(s, load)
    step = f.step_bytes * _shards(dense, experts, s.owners, zero >= 1)
    return Memory(
        weights=_weights(s, load, dense, experts),
        gradients=_gradients(s, dense, experts),
        optimizer=_optimizer(s, load, dense, experts),
        activations=activations,
        logits=logits,
        workspace=working + maximum(0, step - activations - logits - working),
        communication=workspace.layers_gathered(s, load)
        + buckets(s)
        + workspace.waiting(s)
        + gathered.buffers(s, load)
        + workspace.registered(s, load),
        framework=workspace.kernels(s, load),
    )


def _weights(s: Scene, load: Load, dense: Number, experts: Number) -> Number:
    """FSDP2 at ZeRO-2 keeps what it gathered for the forward, in 16 bits, beside its shards.

    Embedding and head are no linears of Transformer Engine's: they stay in 16 bits, but where the head is said not to.
    """
    f, zero = s.framework, s.layout.zero
    sharded = (zero >= 3) | (f.fsdp2 & (zero >= 2))
    plain = _ends(s, load) - (load.head * output_weight(s) if f.low_head else 0)
    own = f.weight_bytes * _shards(dense, experts, s.sharers, sharded) + f.transposes * (dense - plain + experts)
    own = own - f.coded_bytes * _shards(plain, 0, s.sharers, sharded)
    own = own + (f.fsdp2 & (zero == 2)) * 2 * _shared(s, dense, experts)
    return own + _second_copy(s, dense + experts)


def _gradients(s: Scene, dense: Number, experts: Number) -> Number:
    """FSDP2 keeps them unsharded, in the type it reduces, until it may (``to_accumulated_grad_if_needed``).

    A single micro-batch's are scattered layer by layer. Of the others no shards are there before the last one's, but
    where pipelines that ran dry have left some.
    """
    f, r = s.framework, s.layout
    whole = (r.zero >= 2) * (r.microbatches > 1) * (f.whole_gradients > 0)
    none_yet = whole * (1 - (f.emptied_every > 0) * (r.microbatches > f.emptied_every))
    left = [1 - none_yet * (sharers > 1) for sharers in s.sharers]
    shards = _shards(left[0] * dense, left[1] * experts, s.sharers, r.zero >= 2)
    return f.gradient_bytes * shards + whole * f.whole_gradients * _shared(s, dense, experts)


def _shared(s: Scene, dense: Number, experts: Number) -> Number:
    """Of these elements, those of which a rank keeps a part only."""
    return (s.sharers[0] > 1) * dense + (s.sharers[1] > 1) * experts


def _second_copy(s: Scene, everything: Number) -> Number:
    """ZeRO++'s, from the first forward of a step on, where parameters are (zero/partition_parameters.py:1913)."""
    ranks, device = s.framework.secondary, s.layout.backend.deepspeed.offload_param.device
    return (ranks > 1 and device == "none") * (s.layout.zero >= 3) * s.width * everything / ranks


def _optimizer(s: Scene, load: Load, dense: Number, experts: Number) -> Number:
    """States of the shard that one rank owns; with several instances of the optimizer each has them all."""
    f, sharded = s.framework, s.layout.zero >= 1
    beside = f.end_bytes * _shards(_ends(s, load), 0, s.owners, sharded) if f.end_bytes else 0
    return f.optimizer_bytes * _shards(dense, experts, s.owners, sharded) + beside + _squares(s, load)


def _squares(s: Scene, load: Load) -> Number:
    if s.layout.training.optimizer.name != "soap":
        return 0
    from meshwright.cost import soap

    return soap.states(s, load)


def _shards(dense: Number, experts: Number, ways: Pair, sharded: Number) -> Number:
    """Of dense elements and of experts', those of one rank."""
    return where(sharded, dense / ways[0] + experts / ways[1], dense + experts)


def stage_parameters(s: Scene, load: Load) -> tuple[Number, Number]:
    """(all, of these routed experts') parameters of one rank of the stage."""
    d, model, load = s.degrees, s.layout.model, built(s.layout.model, load)
    layers = load.total(everything for everything, _ in s.parameters)
    joint = load.mtp * parameters(mtp_joint(model), d.tp, parts=d.parts)[0] if model.mtp else 0
    return layers + joint + _ends(s, load), load.total(experts for _, experts in s.parameters)


def _ends(s: Scene, load: Load) -> Number:
    """Parameters of the embedding, the last norm and the head on one rank of the stage."""
    d, model = s.degrees, s.layout.model
    words = parameters(embedding(model, s.vocab, cuts_words(model, s.layout.backend)), d.tp, parts=d.parts)[0]
    norm = parameters(final_norm(model), d.tp)[0]
    reads_words = maximum(load.embedding, (load.mtp > 0) + 0)
    return reads_words * words + load.head * norm + workspace.untied_head(s, load) * output_weight(s)


def output_weight(s: Scene) -> Number:
    """Elements of the output projection on one rank, a part of it where it is kept in parts."""
    d, rows = s.degrees, s.vocab / s.words
    whole = rows * s.layout.model.hidden
    return whole if d.parts.dense == 1 else d.parts.of(whole, rows, d.parts.dense)


def _activations(s: Scene, load: Load, each: Sequence[Number]) -> tuple[Number, Number]:
    """Saved tensors of every layer of every micro-batch in flight, and of the layers that are being recomputed.

    Full recomputation keeps layer inputs only: of every ``recompute_layers``-th layer where uniform, of the first
    ``recompute_layers`` of each chunk where block.
    """
    p = s.layout.spec.parallelism
    kept = load.total(each)
    every = p.recompute_layers or 1
    largest = load.largest(each)
    if p.recompute_method == "block":
        part = recomputed_part(s, load)
        inputs, working = part * load.layers * layer_input(s) + (1 - part) * kept, largest
    else:
        inputs, working = load.layers / every * layer_input(s), every * largest
    full = s.layout.recompute == 2
    hidden = s.layout.model.hidden * s.tokens / s.degrees.sequence
    ends = load.embedding * 8 * s.tokens + s.framework.boundary_bytes * hidden
    stay = (where(full, inputs, kept) + ends) * load.in_flight - leaving(s, load)
    return maximum(0, stay), where(full, working, 0 * working)
