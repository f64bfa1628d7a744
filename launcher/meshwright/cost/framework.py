"""What a training framework does that a layout does not say: kernels, loss, how states are kept, what overlaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwright.cost.captured import captured
from meshwright.cost.framework_deepspeed import deepspeed
from meshwright.cost.numbers import Number, where
from meshwright.model.low_precision import CODED, Casts, cast_bytes, directions, gathered_bytes, low_bytes
from meshwright.model.megatron_classes import is_hybrid
from meshwright.model.operation import FUSED, Kernels
from meshwright.model.optimizer_state import Moments, state_bytes
from meshwright.rules import Layout
from meshwright.rules.megatron_experts import static_experts
from meshwright.spec import MegatronOptions
from meshwright.spec.frozen import dataclass
from meshwright.spec.training import MATRIX_OPTIMIZERS

__all__ = ["SPREAD", "Framework", "framework_of"]

SPREAD = 0.15
"""80 % of the peaks in data/measured.csv lie within exp(-SPREAD) and exp(SPREAD) times ours; a test says so."""

_ENGINE_SPREAD = 0.07
"""The same of layers by Transformer Engine, which are counted tensor by tensor: of the eleven such peaks that nothing
here was settled on (three of our own runs, two of DGX Cloud, six of an 8B model in Megatron-LM's own tests) eight; nine
where of the one that is known as reserved alone 3.5 % less was given out, the least of our own runs (docs/gpu.md)."""


@dataclass(frozen=True, kw_only=True)
class Framework:
    """Bytes are for each logit or parameter.

    ``loss_bytes``: of the logits and what the loss keeps beside them when its backward begins. ``gathered_loss``:
    every tp rank sees the whole vocabulary; Megatron's own loss keeps fp32 probabilities beside its part.
    ``dummy_gradients``: Transformer Engine's persistent buffers. ``tf32``: its cublaslt_gemm.cu, in fp32.
    """

    kernels: Kernels = FUSED
    tiles: tuple[int, int] = (1, 1)  # pieces of a micro-batch's tokens for the loss and for dense MLPs, computed twice
    autocast: bool = False  # products read 16 bits of weights in fp32
    tf32: bool = False  # weights in fp32 are multiplied in TF32, which PyTorch's own products do not take
    loss_bytes: Number = 10.0
    fused_loss: bool = False  # one kernel, which writes the gradient over the bf16 logits
    gathered_loss: bool = False
    gathers_logits: bool = False  # the same, and time for it: the parts of the logits are gathered, each rank takes all
    dummy_gradients: Number = True
    weight_bytes: Number = 2.0
    coded_bytes: Number = 0.0  # of these, what fewer bits add to 16 or spare of them; not of embedding and head
    gradient_bytes: Number = 4.0
    optimizer_bytes: Number = 12.0
    transposes: float = 0.0  # of each whole weight, gathered or not, that stays between the passes
    sums_in_switches: bool = False  # an all-reduce of gradients sends them up once, not round
    end_bytes: float = 0.0  # states beside these of embedding, head and last norm, whose optimizer is another
    optimizer_away: Number = 0.0  # part of the states that leaves the GPU
    reduce_bytes: float = 4.0  # of a gradient on the wire
    fsdp2: Number = False  # ZeRO-2 keeps a gathered 16-bit copy beside the shards
    whole_gradients: float = 0.0  # ZeRO-2 and 3 sum what is shared in so many bytes, and scatter it once a step
    emptied_every: int = 0  # micro-batches, after which a pipeline runs dry, reduces and gathers anew; 0: with the step
    regathers: bool = True  # with sp, a linear's input is gathered again in the backward, not kept
    boundary_bytes: float = 0.0  # kept for each hidden element of each micro-batch that a stage holds, layers apart
    fixed_gib: float = 0.0  # allocated whatever the layout
    grouped_softmax: bool = False  # unfused attention takes a multiple of four heads at once, or is slow
    gather_bytes: float = 0.0  # of a weight that is gathered; 0: an activation's width
    casts: Casts | None = None  # where products are in 8 or 4 bits
    coded: tuple[float, float] = (2.0, 2.0)  # of what tp gathers with sequence parallelism: inputs, outputs' gradients
    scatter_bytes: float = 0.0  # of a gradient that ZeRO-3 scatters; 0: as it is summed
    secondary: int = 1  # ranks that hold a second copy of what ZeRO-3 gathers, and gather it again among themselves
    low_layers: float = 1.0  # part of the layers whose products are in the low precision, if there is one
    low_head: bool = False  # the head's, too
    own_precision: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()  # operation: (precision, part of layers)
    registers: bool = False  # tensor-parallel ranks exchange in buffers that the engine registers
    sends_once: bool = False  # a routed token leaves its node once for each node with experts of its own
    reads_counts: bool = True  # the host waits for the router's counts of tokens; not where experts are padded to one
    deals_tokens: bool = False  # a benchmark's gate: each token to the next k experts, none of them chosen
    captured: tuple[str, ...] = ()  # operations inside CUDA graphs, by the beginning of their names
    captures_all: bool = False  # one graph holds the whole iteration
    expert_room: float = 1.0  # of tensors of an expert's tokens, times those it would get were they dealt evenly
    expert_pages: float = 0.0  # of pages that hold what experts keep, the same; 0: it stays where it was made
    memory_spread: float = SPREAD  # see there
    grouped_workspace: float = 0.0  # bytes that products of grouped experts write to between their pieces
    dispatcher_copies: float = 0.0  # hidden states of a rank's tokens for each rank of the group, in fixed buffers
    expert_launches: float = 1.6  # host time of each local expert's weight in a grouped product, in operations'
    gradient_launches: float = 0.0  # of each weight's gradient that a hook adds to its buffer, the same
    fused_gradients: bool = True  # added to their buffer by the matrix product that makes them
    overlaps_gradients: bool = True  # a tensor-parallel rank communicates while it computes weight gradients
    exchanges_heads: bool = False  # context parallelism exchanges heads for tokens; else keys go round a ring
    overlaps_gather: bool = False  # new parameters are gathered while the forward pass runs
    reduces_whole: bool = False  # ZeRO-3 all-reduces gradients, of which each rank keeps its part
    reduces_after: Number = 0  # ZeRO-1 does, in their own buffers, once the backward is over
    gradient_passes: Number = 0.0  # bytes of each gradient of a micro-batch through memory, beside product and sum
    scattered_sends: bool = False  # a pipeline stage sends 1/tp of its output and the receiver gathers it


def framework_of(layout: Layout) -> Framework:
    """The Framework of the layout's backend, by that backend's own options alone."""
    return FRAMEWORKS[layout.backend.name](layout)


def _megatron(layout: Layout) -> Framework:
    parts = _loss(layout) | _states_of(layout) | _buffers(layout) | _done(layout)
    return Framework(kernels=_kernels(layout), **parts)


def _kernels(layout: Layout) -> Kernels:
    options, local = layout.backend.megatron, _local(layout)
    return Kernels(
        flash=not _unfused(layout),
        norm=not (local and layout.cluster.accelerator.platform == "cpu"),  # torch's RMSNorm, one kernel on GPUs alone
        joined=not local,
        eight_bit=_low(layout),
        low_bytes=_kept(layout),
        kept=_own(layout).kept_bytes(layout) if _own(layout) else (),
        router=options.moe_router_fusion,
        permute=options.moe_permute_fusion,
        fused_experts=options.op_fuser,
        pieced_biases=not local and not options.op_fuser,
        sparse=options.dsa_kernels != "none",
    )


def _kept(layout: Layout) -> float:
    """Bytes of an element of a product's input, over the layers."""
    part = _low_part(layout)
    return part * CODED.get(layout.training.precision, 1.0) + (1 - part) * 2.0


def _local(layout: Layout) -> bool:
    """Whether layers are Megatron's own, not Transformer Engine's."""
    return layout.backend.megatron.transformer == "local"


def _unfused(layout: Layout) -> bool:
    return layout.backend.megatron.attention == "unfused" or layout.training.precision == "fp32"


def _low(layout: Layout) -> bool:
    """Whether products are in 8 bits or fewer, which only Transformer Engine's layers have."""
    return not _local(layout) and layout.training.precision not in ("fp32", "fp16", "bf16")


def _fsdp2(layout: Layout) -> Number:
    """PyTorch's, which realises ZeRO 2 and 3."""
    return layout.zero >= 2 if layout.backend.megatron.fsdp == "torch" else False


def _loss(layout: Layout) -> dict[str, Any]:
    """Of the head, the logits and their loss."""
    options = layout.backend.megatron
    return {
        "loss_bytes": where(_fsdp2(layout), 14.0, 2.0 if options.cross_entropy_fusion else 6.0),
        "fused_loss": options.cross_entropy_fusion,
        "low_head": options.quantization.output_projection,
    }


def _states_of(layout: Layout) -> dict[str, Any]:
    """Bytes of a parameter, its gradient and states, kept and sent.

    FSDP2 keeps fp32 shards and casts what it gathers, so it needs no other master copy.
    """
    options, training, fsdp2, part = layout.backend.megatron, layout.training, _fsdp2(layout), _low_part(layout)
    coded = part * (_own(layout).coded_part(layout) if _own(layout) else 1.0)
    weight, gradient, optimizer = _states(layout, options.optimizer_moments)
    capability = layout.cluster.accelerator.capability
    kept, sent = low_bytes(options.quantization, training.precision, capability) if _low(layout) else (0.0, 0.0)
    away = options.optimizer_offload.fraction
    return {
        "weight_bytes": where(fsdp2, 4.0, weight) + coded * kept,
        "coded_bytes": coded * kept,
        "gather_bytes": coded * sent + (1 - coded) * 2.0 if sent else 0.0,
        "low_layers": part,
        "own_precision": _own(layout).own_precision(layout) if _own(layout) else (),
        "coded": _coded(layout, coded),
        "casts": cast_bytes(training.precision) if _low(layout) else None,
        "gradient_bytes": where(fsdp2, 4.0, gradient),
        "optimizer_bytes": where(fsdp2, 8.0, optimizer - _saved_of_master(layout)) * (1 - away),
        "end_bytes": _of_ends(layout) if training.optimizer.name in MATRIX_OPTIMIZERS else 0.0,
        "optimizer_away": away,
        "transposes": _transposes(layout),
        "sums_in_switches": options.groups.sharp == "dp",
        "reduce_bytes": _reduced(layout),
        "fsdp2": fsdp2,
    }


def _own(layout: Layout) -> Any:
    """What counts modules with a precision of their own, where there are some."""
    if not layout.backend.megatron.quantization.modules:
        return None
    from meshwright.cost import own_precision

    return own_precision


def _of_ends(layout: Layout) -> float:
    """Bytes by which the states of an embedding exceed those of a matrix, which another optimizer steps."""
    name, muon = layout.training.optimizer.name, layout.backend.megatron.muon
    ends = muon.scalars if name == "muon" else "adam"
    return float(state_bytes(ends) - state_bytes(name))


def _coded(layout: Layout, part: float) -> tuple[float, float]:
    inputs, gradients = gathered_bytes(layout.training.precision) if _low(layout) else (2.0, 2.0)
    return part * inputs + (1 - part) * 2.0, part * gradients + (1 - part) * 2.0


def _transposes(layout: Layout) -> float:
    """Blackwell reads one copy either way."""
    kept = layout.backend.megatron.megatron_fsdp.transpose_cache
    return kept * (directions(layout.training.precision, layout.cluster.accelerator.capability) - 1.0)


def _buffers(layout: Layout) -> dict[str, Any]:
    """What stays allocated beside parameters and activations, and how well the whole is known."""
    options, local = layout.backend.megatron, _local(layout)
    return {
        # with Megatron-FSDP nothing is added by products (emit/megatron_kwargs.py)
        "dummy_gradients": (not local and options.gradient_accumulation_fusion) * (layout.zero < 2),
        "dispatcher_copies": 2.0 if layout.model.moe and _hybrid(options) else 0.0,
        "grouped_workspace": 0.0 if local or not layout.model.moe else _GROUPED,
        "expert_room": options.moe_rank_capacity or 1.0,
        "expert_pages": options.experts.stash_gpu if options.moe_paged_stash else 0.0,
        "memory_spread": SPREAD if local else _ENGINE_SPREAD,
    }


def _done(layout: Layout) -> dict[str, Any]:
    """How the work of a step is started, overlapped and sent."""
    options, p = layout.backend.megatron, layout.spec.parallelism
    return {
        "captured": captured(options),
        "captures_all": options.cuda_graphs.kind == "full_iteration",
        "sends_once": options.moe_dispatcher == "flex",
        "reads_counts": not static_experts(layout),
        "tf32": not _local(layout) and layout.cluster.accelerator.platform == "cuda",
        "fused_gradients": options.gradient_accumulation_fusion,
        "gradient_launches": 0.0 if options.gradient_accumulation_fusion else HOOKED,
        "grouped_softmax": _unfused(layout),
        "exchanges_heads": p.cp_comm == "a2a",
        "overlaps_gather": _gathers_ahead(layout),
        "registers": p.overlap_tp and not _local(layout),
    }


def _gathers_ahead(layout: Layout) -> bool:
    """Megatron's buckets gather ahead only where they reduce ahead (training/arguments.py:994)."""
    p = layout.spec.parallelism
    return p.overlap_param_gather & p.overlap_grad_reduce


def _saved_of_master(layout: Layout) -> float:
    """Bytes of an fp32 master copy that Transformer Engine's precision-aware Adam does without.

    Of a bf16 weight it keeps the 16 bits that the weight lacks (optimizer_config.py ``store_param_remainders``), as far
    as weights are in bf16 and the states on the GPU; or the whole in fp16.
    """
    options, details = layout.backend.megatron, layout.backend.megatron.quantization
    plain = layout.training.precision in ("bf16", "fp8_delayed") and not details.param_gather
    remainders = options.precision_aware_optimizer and plain and options.optimizer_offload.fraction == 0
    return 2.0 if remainders or options.optimizer_master == "fp16" else 0.0


def _hybrid(options: MegatronOptions) -> bool:
    """HybridEP receives, and gives back, in buffers that hold all tokens of its domain (inferred)."""
    return options.moe_dispatcher == "flex" and options.moe_flex_backend == "hybridep"


def _low_part(layout: Layout) -> float:
    """Of the layers, predicting ones among them, those that are not kept in bf16; evenly over the stages.

    ``GPTModel`` does not quantize what predicts to 4 bits (megatron-core 0.19.2 core/transformer/
    multi_token_prediction.py:1181); ``HybridModel``'s stack does so itself (core/models/hybrid/hybrid_block.py:337).
    """
    details, model = layout.backend.megatron.quantization, layout.model
    kept = details.first_layers_bf16 + details.last_layers_bf16
    plain = layout.training.precision == "nvfp4" and not is_hybrid(model, layout.backend.megatron)
    kept += plain * model.mtp
    return max(0.0, 1 - kept / (model.layers + model.mtp)) if kept else 1.0


_GROUPED = 4 * 32 * 2**20
"""One workspace of cuBLAS for each of four streams (transformer_engine/pytorch/module/base.py,
``get_multi_stream_cublas_workspace``)."""

HOOKED = 2.3
"""Operations' worth of host time of a gradient's hook and addition. Ours: with ``expert_launches`` it explains one run
of 128 of Qwen3's experts on an H100 (docs/gpu.md)."""

FRAMEWORKS: dict[str, Callable[[Layout], Framework]] = {
    "megatron": _megatron,
    "deepspeed": lambda layout: Framework(**deepspeed(layout)),
}


def _states(layout: Layout, moments: Moments) -> tuple[float, float, float]:
    """Bytes of a weight, a gradient, and the optimizer's states with its master copy."""
    training = layout.training
    if training.precision == "fp32":
        return 4.0, 4.0, float(state_bytes(training.optimizer.name, moments))
    return 2.0, _reduced(layout), 4.0 + state_bytes(training.optimizer.name, moments)


def _reduced(layout: Layout) -> float:
    """Bytes of a gradient, summed and on the wire."""
    return 4.0 if layout.training.grad_reduce == "fp32" else 2.0
