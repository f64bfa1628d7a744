"""Bytes that stand for a while beside weights, states and activations: a backward's own, gathered layers, buffers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshwright.cost import tiles
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.numbers import GIB, Number, maximum, minimum, where
from meshwright.cost.saved import FEED_FORWARD, saved, static_tensors, unpaged
from meshwright.model.layers import LayerKind, parts
from meshwright.model.operations import Degrees, Operation
from meshwright.spec.training import FP8_RECIPES

__all__ = ["backward", "kernels", "layers_gathered", "logits", "predicted", "registered", "untied_head", "waiting"]


def logits(s: Scene) -> Number:
    """Logits, their soft cap and the loss, the head's weight gradient before it is added, and a few hidden states."""
    model, f = s.layout.model, s.framework
    hidden, rows = 2 * model.hidden * s.tokens, s.vocab / s.words
    seen = s.vocab if f.gathered_loss else rows
    gathered = (s.degrees.sequence > 1) * 2 * hidden
    each = f.loss_bytes + (s.layout.tp > 1) * f.gathered_bytes
    loss = (each + 2 * (model.final_softcap is not None)) / f.tiles[0]
    return loss * s.tokens * seen + 2 * model.hidden * rows + gathered + 5 * hidden / s.degrees.sequence


def predicted(s: Scene) -> Number:
    """What head and loss keep for one predicting layer, of which all stand before the backward begins.

    fp32 probabilities (core/transformer/multi_token_prediction.py:840), or the gradient in place of the logits where
    one kernel writes that; nothing where the loss itself keeps none.
    """
    kept = minimum(4.0, s.framework.loss_bytes)
    return s.tokens * (kept * s.vocab / s.words + s.width * s.layout.model.hidden / s.degrees.sequence)


def backward(s: Scene, load: Load) -> Number:
    """Gradients flowing through the widest operation of one layer, where no head needs more."""
    model = s.layout.model
    width = load.largest(maximum(0, *(tiles.widest(s, part) for part in parts(kind))) for kind in s.kinds)
    sent = load.largest(_sent(s, kind) for kind in s.kinds)
    own = s.framework.pass_bytes * model.hidden * s.tokens / s.degrees.sequence
    widest = 2 * s.tokens * (width / s.degrees.tp + model.hidden) + own + sent + unpaged(s, load)
    return widest if s.framework.kernels.flash else maximum(widest, load.largest(_attending(s, o) for o in s.layers))


def _attending(s: Scene, operations: Sequence[Operation]) -> Number:
    """Gradients in unfused attention and the hidden states', where what is behind it in the layer is gone already.

    Of probabilities, beside all that is kept, or whatever stands while softmax and mask run backward
    (tests/attention_at_once.py counts it); before that what was recomputed for them.
    """
    modules = s.layout.spec.parallelism.recompute_modules or ("core_attn",)
    pairs = s.tokens * s.layout.training.sequence * s.width / 2
    kept = pairs * sum(t.on_rank(s.degrees) for o in operations if o.name == _SCORED for t in o.saved if t.squared)
    beside = maximum(_scores(s, operations, s.framework.score_bytes) - kept, _scores(s, operations, 2))
    again = (s.layout.recompute == 1) * ("core_attn" in modules) * kept
    behind = saved(s, tuple(o for o in operations if o.name.startswith(FEED_FORWARD)))
    return maximum(0, beside + again - behind) + 2 * s.tokens * s.layout.model.hidden


_SCORED = "attention.core"


def _scores(s: Scene, operations: Iterable[Operation], each: Number) -> Number:
    """So many bytes of ``each`` 16-bit score of one layer, if its attention has scores."""
    there = any(o.name == _SCORED and not s.framework.kernels.flash for o in operations)
    scores = s.tokens * s.layout.training.sequence * s.layout.model.heads / s.degrees.tp
    return there * each * s.width / 2 * scores


def _sent(s: Scene, kind: LayerKind) -> Number:
    """Of a layer with experts, gradients of the tokens sent to them: exchange and sorting each read and write one.

    Four in all are what SimuMax measured of the first stage of DeepSeek V2 beside everything else (31.6 GiB).
    """
    if not any(part.routed for part in parts(kind)):
        return 0
    moe, d = s.layout.model.moe, s.degrees
    assert moe is not None
    rows = moe.topk * d.load * s.framework.expert_room * s.tokens
    return 4 * s.width * rows * s.layout.model.hidden * d.etp / d.tp


def kernels(s: Scene, load: Load) -> Number:
    """TE keeps one dummy weight gradient for each shape of linear (transformer_engine/pytorch/module/base.py).

    Megatron's unfused attention keeps a buffer of scores (core/transformer/dot_product_attention.py:184, "mpu").
    """
    fixed = s.framework.fixed_gib * GIB + s.framework.grouped_workspace + _dispatcher(s, load)
    fixed = fixed + static_tensors(s, load)
    fixed = fixed + load.largest(_scores(s, operations, s.framework.score_buffer) for operations in s.layers)
    d = s.degrees
    return fixed + s.framework.dummy_gradients * 2 * load.largest(_shapes(operations, d) for operations in s.layers)


def _dispatcher(s: Scene, load: Load) -> Number:
    """Buffers that all layers with experts share."""
    group = minimum(s.domain, s.layout.ep * s.layout.etp)
    hidden = s.width * s.layout.model.hidden * s.tokens / s.layout.tp
    return s.framework.dispatcher_copies * hidden * group + 0 * load.layers


def _shapes(operations: Iterable[Operation], d: Degrees) -> Number:
    total: Number = 0
    for operation in operations:
        for weight in operation.weights:
            if weight.name.endswith((".weight", "experts.up", "experts.down")) and "norm" not in weight.name:
                total = total + weight.elements / (d.tp if weight.shard == "tp" else d.etp)
    return total


def layers_gathered(s: Scene, load: Load) -> Number:
    """ZeRO-3 gathers two layers at a time, and reduces the gradients of one; double buffers hold those of two.

    Megatron-FSDP's are of the type that gradients are reduced in (megatron_fsdp/param_and_grad_buffer.py:2310).
    DeepSpeed keeps up to ``max_live_parameters`` and prefetches (deepspeed/runtime/zero/partitioned_param_coordinator).
    """
    d, r = s.degrees, s.layout
    layer = maximum(*(everything for everything, _ in s.parameters)) if len(s.parameters) > 1 else s.parameters[0][0]
    ends = s.vocab * r.model.hidden / d.tp
    live = 2 * layer + untied_head(s, load) * ends + load.embedding * ends
    if r.backend.name == "deepspeed":
        o = r.backend.deepspeed
        live = maximum(live, minimum(load.layers * layer + ends, o.max_live_parameters + o.prefetch_bucket))
    own = r.backend.name == "megatron" and r.backend.megatron.fsdp == "megatron"
    twice = own and r.backend.megatron.megatron_fsdp.double_buffer
    gradients = (1 + twice) * (s.framework.reduce_bytes if own else 4.0) * layer
    low = (s.width - (s.framework.gather_bytes or s.width)) * 2 * layer  # ends are gathered in 16 bits
    return where(r.zero >= 3, s.width * live - low + gradients, where(r.zero == 2, twice * gradients, 0))


def waiting(s: Scene) -> Number:
    """Whole hidden states that tensor-parallel collectives read on a stream of their own.

    The allocator hands none of them out again before its collective is over, which it only learns later: the host runs
    ahead, by a micro-batch where there are more of them than stages.
    """
    r, (always, ahead) = s.layout, s.framework.waiting
    return (r.tp > 1) * (always + (r.microbatches > r.pp) * ahead) * r.model.hidden * s.tokens


def untied_head(s: Scene, load: Load) -> Number:
    """Whether the stage has a head's weight. Tied, the last has its own copy unless it is the first, too."""
    return where(load.embedding & (s.layout.model.tied_embeddings + 0), 0, load.head)


def registered(s: Scene, load: Load) -> Number:
    """User buffers, which stand beside what the allocator counts."""
    if not s.framework.registers:
        return 0 * load.layers
    from meshwright.model.user_buffers import buffer_bytes

    layout, eight = s.layout, s.layout.training.precision in FP8_RECIPES
    details = layout.backend.megatron.quantization
    both = eight and details.first_layers_bf16 + details.last_layers_bf16 > 0
    kinds = (eight, False) if both else (eight,)
    there = (layout.tp > 1) * layout.model.hidden * s.tokens
    return buffer_bytes(layout.backend.megatron.tp_overlap, there, layout.tp, kinds) + 0 * load.layers
