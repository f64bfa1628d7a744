"""What Megatron-core does that a layout does not say: kernels, loss, how states are kept, what overlaps."""

from __future__ import annotations

from typing import Any

from meshwright.cost.captured import captured
from meshwright.cost.megatron_attention import own_layers, scored, unfused
from meshwright.cost.numbers import Number, where
from meshwright.model.low_precision import CODED, cast_bytes, directions, gathered_bytes, holds_codes, low_bytes
from meshwright.model.megatron_classes import predicts_in_bf16, turns_at_once
from meshwright.model.operation import Kernels
from meshwright.model.optimizer_state import Moments, state_bytes, step_bytes
from meshwright.rules import Layout
from meshwright.rules.megatron_experts import static_experts
from meshwright.spec import MegatronOptions
from meshwright.spec.training import MATRIX_OPTIMIZERS

__all__ = ["HOOKED", "SPREAD", "megatron"]

SPREAD = 0.047
"""Nine of ten peaks of Megatron's layers lie below its exp times ours, tensor by tensor, and 86 % within it: of 80 that
nothing here was settled on (three of our own runs, two of DGX Cloud, 25 of Megatron-Bridge's cards, 16B to 120B, and 50
of Megatron-LM's own tests, docs/gpu.md, docs/functional_tests.md)."""

_WORKSPACES = 2 * 32 / 1024
"""GiB that cuBLAS and Transformer Engine write to from Hopper on, 32 MiB each (``_cublas_handle_workspace``;
transformer_engine/pytorch/module/base.py, ``get_cublas_workspace_size_bytes``)."""

_LOSS, _FUSED_LOSS = 6.0, 10.0
"""Bytes of a logit at the loss: its exponential in fp32, and in the end the gradient in 16 bits. What is fused is
compiled, and writes a second copy where the plain code works in place (core/fusions/fused_cross_entropy.py; measured of
both on a CPU, and of the latter in core's own tests, docs/accuracy.md). Transformer Engine's takes 2, but Megatron
refuses it (training/arguments.py:1643)."""

_PREFETCHED = 0.55
"""Part of what PyTorch's FSDP sends that runs beside products: the least of what was fitted to its runs, llm-foundry's
on A100 and H100 and torchtitan's on H100 (data/environments.yaml, conf/cluster/grand_teton_h100_96gb.yaml). What
Megatron hid of its all-reduces, which the A100's own constant is of, says less."""


def megatron(layout: Layout) -> dict[str, Any]:
    """Of Framework, what Megatron-core does by the layout's options."""
    parts = _loss(layout) | _states_of(layout) | _buffers(layout) | _done(layout)
    return {"kernels": _kernels(layout), **parts}


def _kernels(layout: Layout) -> Kernels:
    options, local = layout.backend.megatron, own_layers(layout)
    return Kernels(
        flash=not unfused(layout),
        # what YaRN's pieces cost other attention is in the bytes of gpt-oss' biases, which were settled on its rows
        rope=layout.model.mla is None or turns_at_once(layout.model),
        norm=not (local and layout.cluster.accelerator.platform == "cpu"),  # torch's RMSNorm, one kernel on GPUs alone
        joined=not local,
        eight_bit=_low(layout),
        low_bytes=_kept(layout),
        kept=_own(layout).kept_bytes(layout, _low_part(layout)) if _own(layout) else (),
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


def _low(layout: Layout) -> bool:
    """Whether products are in 8 bits or fewer, which only Transformer Engine's layers have."""
    return not own_layers(layout) and layout.training.precision not in ("fp32", "fp16", "bf16")


def _fsdp2(layout: Layout) -> Number:
    """PyTorch's, which realises ZeRO 2 and 3."""
    return layout.zero >= 2 if layout.backend.megatron.fsdp == "torch" else False


def _loss(layout: Layout) -> dict[str, Any]:
    """Of the head, the logits and their loss."""
    options = layout.backend.megatron
    return {
        "loss_bytes": _FUSED_LOSS if options.cross_entropy_fusion else _LOSS,
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
    own = options.fsdp == "megatron" and holds_codes(options.quantization, training.precision)
    kept = kept - where(layout.zero >= 2, 2.0 * own, 0.0)
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
        "step_bytes": where(layout.zero >= 2, 0.0, step_bytes(training, options)),
        "transposes": _transposes(layout),
        "sums_in_switches": options.groups.sharp == "dp",
        "reduce_bytes": _reduced(layout),
        "fsdp2": fsdp2,
        "hides": where(fsdp2, _PREFETCHED, 0.0),
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
    options, local = layout.backend.megatron, own_layers(layout)
    return {
        # with Megatron-FSDP nothing is added by products (emit/megatron_kwargs.py)
        "dummy_gradients": (not local and options.gradient_accumulation_fusion) * (layout.zero < 2),
        "dispatcher_copies": 2.0 if layout.model.moe and _hybrid(options) else 0.0,
        "grouped_workspace": _GROUPED if layout.model.moe and options.moe_grouped_gemm and not local else 0.0,
        "expert_room": options.moe_rank_capacity or 1.0,
        "expert_pages": options.experts.stash_gpu if options.moe_paged_stash else 0.0,
        "fixed_gib": 0.0 if local or float(layout.cluster.accelerator.capability) < 9 else _WORKSPACES,
        "memory_spread": SPREAD,
    }


def _done(layout: Layout) -> dict[str, Any]:
    """How the work of a step is started, overlapped and sent."""
    options, p = layout.backend.megatron, layout.spec.parallelism
    return {
        "captured": captured(options),
        "captures_all": options.cuda_graphs.kind == "full_iteration",
        "sends_once": options.moe_dispatcher == "flex",
        "reads_counts": not static_experts(layout),
        "tf32": not own_layers(layout) and layout.cluster.accelerator.platform == "cuda",
        "fused_gradients": options.gradient_accumulation_fusion,
        "gradient_launches": 0.0 if options.gradient_accumulation_fusion else HOOKED,
        **(scored(layout) if unfused(layout) else {}),
        "exchanges_heads": p.cp_comm == "a2a",
        "overlaps_gather": _gathers_ahead(layout),
        "registers": p.overlap_tp and not own_layers(layout),
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
    """Of the layers, predicting ones among them, those that are not kept in bf16; evenly over the stages."""
    details, model = layout.backend.megatron.quantization, layout.model
    kept = details.first_layers_bf16 + details.last_layers_bf16
    kept += predicts_in_bf16(model, layout.backend.megatron, layout.training.precision) * model.mtp
    return max(0.0, 1 - kept / (model.layers + model.mtp)) if kept else 1.0


_GROUPED = 4 * 32 * 2**20
"""One workspace of cuBLAS for each of four streams (transformer_engine/pytorch/module/base.py,
``get_multi_stream_cublas_workspace``)."""

HOOKED = 2.4
"""Operations' worth of host time of a gradient's hook and addition. Ours: with ``expert_launches`` it explains one run
of 128 of Qwen3's experts on an H100 (docs/gpu.md)."""


def _states(layout: Layout, moments: Moments) -> tuple[float, float, float]:
    """Bytes of a weight, a gradient, and the optimizer's states with its master copy."""
    training = layout.training
    if training.precision == "fp32":
        return 4.0, 4.0, float(state_bytes(training.optimizer.name, moments))
    return 2.0, _reduced(layout), 4.0 + state_bytes(training.optimizer.name, moments)


def _reduced(layout: Layout) -> float:
    """Bytes of a gradient, summed and on the wire."""
    return 4.0 if layout.training.grad_reduce == "fp32" else 2.0
