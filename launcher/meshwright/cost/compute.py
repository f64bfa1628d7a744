"""Seconds of one layer and of the head on one rank, forward and backward, for one micro-batch.

A kernel takes ``flops/(peak*efficiency) + bytes/(bandwidth*efficiency)``, and a layer no less than the host needs to
start its kernels. The sum, rather than the larger of the two, is what makes small matrix products less efficient.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.cost import attention, launches
from meshwright.cost.counts import recomputed
from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, maximum, where
from meshwright.cost.tiles import in_tiles
from meshwright.model.operations import Operation
from meshwright.model.work import is_matrix
from meshwright.spec import Accelerator
from meshwright.spec.frozen import dataclass

__all__ = ["Roofline", "Seconds", "head", "layer", "operation", "peak", "roofline", "weight_gradients"]


PIECES = 4.0
"""Further kernels where softmax is in pieces (upcast, scale, mask, softmax, downcast), each moving the scores."""
CAPPED_BYTES = (12, 14)
"""A logit under a soft cap, forward and backward: a quotient, a tanh and a product (train/blocks.py), 16 bits each."""
LOSS_KERNELS = (28, 15)
"""Forward and backward, from the last norm on (counted in megatron/core/tensor_parallel/cross_entropy.py)."""
FUSED_LOSS_KERNELS = (8, 6)
"""The same with megatron/core/fusions/fused_cross_entropy.py."""


@dataclass(frozen=True)
class Seconds:
    """One layer or one stage: compute only."""

    forward: Number
    backward: Number
    recompute: Number
    idle: tuple[Number, Number, Number] = (0, 0, 0)  # of each, in which the device waits for the host

    @property
    def total(self) -> Number:
        """Forward, backward and what is computed again."""
        return self.forward + self.backward + self.recompute


@dataclass(frozen=True)
class _Kernel:
    matmul: Number
    attention: Number
    memory: Number
    casts: tuple[Number, Number]  # to 8 bits, forward and backward
    gradient: Number  # adding the weight gradient to its buffer, from 16 bits where that is a kernel of its own
    launch: Number


@dataclass(frozen=True)
class Roofline:
    """One operation's forward on one rank for one micro-batch: FLOPs and bytes moved, and the seconds each takes.

    What it takes is their sum. ``peak``: FLOP/s of the matrix units in its precision.
    """

    flops: Number
    moved: Number
    in_units: Number
    in_moving: Number
    peak: Number


def peak(s: Scene) -> float:
    """FLOP/s in the precision of the linear layers, over those that stay in bf16, too."""
    gpu, precision = s.layout.cluster.accelerator, s.layout.training.precision
    if s.single:
        return gpu.fp32_tflops * 1e12 if s.framework.tf32 else gpu.full_fp32
    low, part = _low_peak(gpu, precision), s.framework.low_layers
    return 1e12 / (part / low + (1 - part) / gpu.bf16_tflops)


def _low_peak(gpu: Accelerator, precision: str) -> float:
    """1e12 FLOP/s in 4 or 8 bits where the precision is such and the GPU has the units."""
    eight = gpu.fp8_tflops or gpu.bf16_tflops
    if precision == "nvfp4" and gpu.platform == "rocm":
        return gpu.bf16_tflops  # which ROCm/TransformerEngine makes of it first (common/gemm/rocm_gemm.cu)
    if precision == "nvfp4":
        return gpu.fp4_tflops or eight
    return eight if precision.startswith(("fp8", "mxfp8")) else gpu.bf16_tflops


def layer(s: Scene, operations: Iterable[Operation]) -> Seconds:
    """One decoder layer."""
    operations = tuple(operations)
    kernels = [_kernel(s, o) for o in operations]
    once = sum(map(_forward, kernels))
    forward = maximum(_at_least_launched(kernels, 1, once), _behind_counts(operations, kernels))
    flash = s.framework.kernels.flash
    twice = 2.5 if flash else 2
    device = sum(2 * (k.matmul + k.memory) + twice * k.attention + k.casts[1] + k.gradient for k in kernels)
    backward = _at_least_launched(kernels, 2, device)
    tiled = sum(k.matmul + k.memory for o, k in zip(operations, kernels, strict=True) if in_tiles(s, o))
    again = [
        k
        for o, k in zip(operations, kernels, strict=True)
        if recomputed(o, s.layout.spec.parallelism.recompute_modules)
    ]
    selective = sum(map(_forward, again))
    r = s.layout.recompute
    idle = (forward - once, backward - device, (r == 2) * (forward - once))
    return Seconds(forward, backward, where(r == 2, forward, where(r == 1, selective, 0 * forward)) + tiled, idle)


def operation(s: Scene, o: Operation) -> Seconds:
    """One operation of a layer by itself, as long as the device takes for it."""
    return layer(s, (o,))


def weight_gradients(s: Scene, operations: Iterable[Operation]) -> Number:
    """Of one layer's backward, the seconds in which gradients of weights are made: a third of the products."""
    kernels = [_kernel(s, o) for o in operations]
    return sum(k.matmul + k.gradient for k in kernels)


def roofline(s: Scene, o: Operation) -> Roofline:
    """One operation's forward, in the matrix units and in moving bytes."""
    kernel, products, scores = _kernel(s, o), _products(s, o), _scores(s, o)
    units = attention.peak(s, o) if o.scores or o.products else peak(s)
    moving = kernel.memory + kernel.casts[0]
    return Roofline(products + scores, _moved(s, o), kernel.matmul + kernel.attention, moving, units)


def head(s: Scene) -> Seconds:
    """Output projection, softmax and loss."""
    model, e = s.layout.model, s.layout.cluster.efficiency
    fused = s.framework.fused_loss
    rows = s.vocab / s.words
    seen = s.vocab if s.framework.gathers_logits else rows
    gpu, precision = s.layout.cluster.accelerator, s.layout.training.precision
    sixteen = _low_peak(gpu, precision) if s.framework.low_head else gpu.bf16_tflops
    units = gpu.full_fp32 if s.single else sixteen * 1e12
    product = 2 * s.tokens * model.hidden * rows / (units * e.matmul)
    rate = s.layout.cluster.accelerator.memory_bandwidth_gb_s * 1e9 * e.memory
    each = 6 if fused else 20
    loss = each * s.tokens * seen / rate
    capped = (model.final_softcap is not None) * s.tokens * seen / rate
    weights = (4 * rows * model.hidden + 2 * s.tokens * (rows + model.hidden)) / rate
    launch = 0 if s.framework.captures_all else e.launch_us * 1e-6
    forward, backward = (n * launch for n in (FUSED_LOSS_KERNELS if fused else LOSS_KERNELS))
    return Seconds(
        maximum(forward, product + loss + weights + capped * CAPPED_BYTES[0]),
        maximum(backward, 2 * product + loss / 2 + 2 * weights + capped * CAPPED_BYTES[1]),
        (s.framework.tiles[0] > 1) * (product + loss + weights),
    )


def _kernel(s: Scene, o: Operation) -> _Kernel:
    layout = s.layout
    e, gpu = layout.cluster.efficiency, layout.cluster.accelerator
    rate = gpu.memory_bandwidth_gb_s * 1e9 * e.memory
    elements = _touched(s, o)
    kernels = o.kernels + _pieces(s, o)
    captured = o.name.startswith(s.framework.captured) or s.framework.captures_all
    fused = s.framework.kernels.flash and not o.dense
    attention_peak = attention.peak(s, o) * (attention.rate(s) if fused else e.matmul)
    return _Kernel(
        matmul=_products(s, o) / (peak(s) * e.matmul),
        attention=_scores(s, o) / attention_peak + attention.narrow(s, o),
        memory=_moved(s, o) / rate + kernels * e.kernel_us * 1e-6,
        casts=_casts(s, o, rate),
        gradient=(2 * s.framework.gradient_bytes + 4 * (not s.framework.fused_gradients)) * elements / rate,
        launch=0 if captured else (kernels + launches.routing(s, o) + launches.by_weight(s, o)) * e.launch_us * 1e-6,
    )


def _products(s: Scene, o: Operation) -> Number:
    """FLOPs of the products with weights."""
    return 2 * s.tokens * o.topk * sum(_product(s, w.elements, w.shard) for w in o.weights if is_matrix(w.name))


def _scores(s: Scene, o: Operation) -> Number:
    """FLOPs of attention's two products, or of a scan; fused, those of tokens behind the mask are left out."""
    sequence = s.layout.training.sequence
    seen = 0.5 * attention.seen(s, o.window) if s.framework.kernels.flash and not o.dense else 1
    done = sequence * (o.computed or o.scores) * seen + o.products
    return 2 * s.tokens * done / (1 if o.shared else s.layout.tp)


def _moved(s: Scene, o: Operation) -> Number:
    """Bytes that the kernels read and write, the weights in 16 bits among them."""
    squared = s.layout.training.sequence * (1 + _pieces(s, o))
    return s.tokens * sum(t.on_rank(s.degrees) * (squared if t.squared else 1) for t in o.moved) + 2 * _touched(s, o)


def _pieces(s: Scene, o: Operation) -> Number:
    """Further kernels of a softmax that is not one."""
    return PIECES * _softmax_in_pieces(s) * any(t.squared for t in o.moved)


def _casts(s: Scene, o: Operation, rate: Number) -> tuple[Number, Number]:
    """Seconds in which inputs and gradients are made 8 bits wide, over the layers that have them.

    Experts' in kernels of their own, or by the products before where operations are fused across an expert's MLP.
    """
    fused = s.layout.backend.megatron.op_fuser and o.name.startswith("experts.")
    if not s.framework.kernels.eight_bit or fused:
        return 0, 0
    part = s.framework.low_layers * s.tokens / rate
    forward, backward = (part * sum(t.on_rank(s.degrees) for t in tensors) for tensors in o.casts)
    return forward, backward


def _softmax_in_pieces(s: Scene) -> Number:
    """Megatron's fused softmax takes a multiple of four heads at a time (megatron/core/fusions/fused_softmax.py)."""
    if not s.framework.grouped_softmax:
        return 0
    return ((s.layout.micro_batch * s.layout.model.heads // s.layout.tp) % 4 != 0) + 0


def _touched(s: Scene, o: Operation) -> Number:
    """Weight elements a kernel reads."""
    d = s.degrees
    return sum(w.on_rank(d.tp, d.etp, d.ep) for w in o.weights if is_matrix(w.name))


def _product(s: Scene, elements: Number, shard: str) -> Number:
    """Weight elements each token (of those routed here) is multiplied with."""
    return elements / (1 if shard == "replicated" else s.layout.tp)


def _forward(kernel: _Kernel) -> Number:
    """Seconds of its forward on the device."""
    return kernel.matmul + kernel.attention + kernel.memory + kernel.casts[0]


def _behind_counts(operations: Iterable[Operation], kernels: Iterable[_Kernel]) -> Number:
    """Seconds of a forward whose routed part is started only when all that comes before it has run; 0 without one.

    Nothing of the device's time before is hidden behind the host's time after: graphs of attention and router leave
    this. The backward reads nothing back.
    """
    each = [(o.name.startswith(launches.COUNTED), k) for o, k in zip(operations, kernels, strict=True)]
    started = sum(k.launch for counted, k in each if counted)
    return (started > 0) * (started + sum(_forward(k) for counted, k in each if not counted))


def _at_least_launched(kernels: Iterable[_Kernel], passes: int, device: Number) -> Number:
    return maximum(device, passes * sum(k.launch for k in kernels))
