"""What a training framework does that a layout does not say: kernels, loss, how states are kept, what overlaps."""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.model.operation import FUSED, Kernels
from meshwright.rules import Layout
from meshwright.spec import Backend

__all__ = ["Framework", "framework_of"]


@dataclass(frozen=True, kw_only=True)
class Framework:
    """Bytes are for each logit or parameter.

    ``loss_bytes``: of the logits and what the loss keeps beside them when its backward begins. ``gathered_loss``:
    every tp rank sees the whole vocabulary. ``dummy_gradients``: Transformer Engine's persistent buffers.
    """

    kernels: Kernels = FUSED
    loss_bytes: float = 10.0
    gathered_loss: bool = False
    dummy_gradients: bool = True
    weight_bytes: float = 2.0
    gradient_bytes: float = 4.0
    optimizer_bytes: float = 12.0
    reduce_bytes: float = 4.0  # of a gradient on the wire
    fsdp2: bool = False  # ZeRO-2 keeps a gathered 16-bit copy beside the fp32 shards
    regathers: bool = True  # with sp, a linear's input is gathered again in the backward, not kept
    boundary_bytes: float = 0.0  # kept for each hidden element of each micro-batch that a stage holds, layers apart
    fixed_gib: float = 0.0  # allocated whatever the layout
    grouped_softmax: bool = False  # unfused attention takes a multiple of four heads at once, or is slow
    fused_gradients: bool = True  # added to their buffer by the matrix product that makes them
    overlaps_gradients: bool = True  # a tensor-parallel rank communicates while it computes weight gradients
    scattered_sends: bool = False  # a pipeline stage sends 1/tp of its output and the receiver gathers it


def framework_of(layout: Layout) -> Framework:
    """The Framework of the layout's backend.

    TE's fused loss writes the gradient over the bf16 logits; Megatron's own keeps fp32 probabilities beside them;
    transformers converts logits to fp32 and keeps their log-softmax. FSDP2 keeps fp32 shards and casts what it
    gathers, so it needs no other master copy.
    """
    backend, training = layout.backend, layout.training
    torch_fsdp = backend.name == "megatron" and backend.megatron.fsdp == "torch"
    reduce = 4.0 if training.grad_reduce == "fp32" else 2.0
    if training.precision == "fp32" or torch_fsdp:
        weight, gradient, optimizer = 4.0, 4.0, 8.0
    else:
        moments = {"fp32": 8.0, "bf16": 4.0, "fp8": 2.0}[backend.megatron.optimizer_moments]
        if training.optimizer.name in ("sgd", "muon"):
            moments /= 2  # momentum alone
        weight, gradient, optimizer = 2.0, reduce, 4.0 + moments
    local = backend.megatron.transformer == "local"
    eight = backend.name == "megatron" and not local and training.precision.startswith(("fp8", "mxfp8"))
    weight += 2.0 * eight  # TE keeps a weight in 8 bits beside its 16, once for each direction
    if backend.name == "deepspeed":
        eager = backend.deepspeed.attention == "eager"
        kernels = Kernels(flash=not eager, activation=False, norm=False)
    else:
        unfused = backend.megatron.attention == "unfused" or training.precision == "fp32"
        kernels = Kernels(
            flash=not unfused, norm=not (local and layout.model.norm == "rmsnorm"), joined=not local, eight_bit=eight
        )
    return Framework(
        kernels=kernels,
        loss_bytes=_loss_bytes(backend),
        gathered_loss=backend.name == "deepspeed",
        dummy_gradients=backend.name == "megatron" and not local and backend.megatron.gradient_accumulation_fusion,
        weight_bytes=weight,
        gradient_bytes=gradient,
        optimizer_bytes=optimizer,
        reduce_bytes=reduce,
        fused_gradients=backend.name == "megatron" and backend.megatron.gradient_accumulation_fusion,
        fsdp2=torch_fsdp,
        grouped_softmax=backend.name == "megatron" and not kernels.flash,
    )


def _loss_bytes(backend: Backend) -> float:
    if backend.name == "deepspeed":
        return 16.0
    if backend.megatron.fsdp == "torch":
        return 14.0
    return 2.0 if backend.megatron.cross_entropy_fusion else 6.0
