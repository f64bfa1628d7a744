"""Seconds of one layer and of the head on one rank, forward and backward, for one micro-batch.

A kernel takes ``flops/(peak*efficiency) + bytes/(bandwidth*efficiency)``, and a layer no less than the host needs to
start its kernels. The sum, rather than the larger of the two, is what makes small matrix products less efficient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshwright.cost import attention, launches
from meshwright.cost.counts import recomputed
from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number, maximum, where
from meshwright.cost.products import casts, low_peak, peak, weight_bytes
from meshwright.cost.recomputation import needless
from meshwright.cost.tiles import in_tiles
from meshwright.model.operations import Operation
from meshwright.model.work import is_matrix
from meshwright.spec.frozen import dataclass

__all__ = ["Roofline", "Seconds", "head", "layer", "operation", "roofline", "weight_gradients"]


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
    behind: Number = 0  # at least these in the forward, behind the counts of tokens; what experts send back is later

    @property
    def total(self) -> Number:
        """Forward, backward and what is computed again."""
        return self.forward + self.backward + self.recompute


@dataclass(frozen=True)
class _Kernel:
    matmul: Number
    attention: Number
    memory: Number
    returned: Number  # beyond twice that, in the backward, and beyond what attention takes there by its forward
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


def layer(s: Scene, operations: Iterable[Operation]) -> Seconds:
    """One decoder layer."""
    operations = tuple(operations)
    kernels = [_kernel(s, o) for o in operations]
    once, host = sum(map(_forward, kernels)), sum(k.launch for k in kernels)
    behind = _behind_counts(operations, kernels) * _waits_for_counts(s)
    forward = maximum(once, host, behind)
    twice = attention.BACKWARD if s.framework.kernels.flash else 2
    moved = sum(2 * k.memory + k.returned for k in kernels)
    device = moved + sum(2 * k.matmul + twice * k.attention + k.casts[1] + k.gradient for k in kernels)
    backward = maximum(device, 2 * host)
    tiled = sum(k.matmul + k.memory for o, k in zip(operations, kernels, strict=True) if in_tiles(s, o))
    r, (repeated, launched) = s.layout.recompute, _repeated(s, operations, kernels)
    both = maximum(device + repeated, 2 * host + launched)
    waiting = where(r == 1, both - device - repeated, backward - device)
    left_out = needless(s, operations)
    spared = sum(_forward(k) for o, k in zip(operations, kernels, strict=True) if o.name in left_out)
    again = maximum(once - spared, host, behind)
    idle = (forward - once, waiting, (r == 2) * (again - once + spared))
    computed = where(r == 2, again, where(r == 1, both - backward, 0 * forward))
    return Seconds(forward, backward, computed + tiled, idle, behind)


def _waits_for_counts(s: Scene) -> bool:
    """Whether the device is idle until experts are started; another micro-batch beside this one fills the wait."""
    return s.framework.reads_counts and not s.layout.spec.parallelism.overlap_ep


def _repeated(s: Scene, operations: Sequence[Operation], kernels: Sequence[_Kernel]) -> tuple[Number, Number]:
    """Seconds that selective recomputation takes of the device and of the host, in a layer's backward."""
    modules = s.layout.spec.parallelism.recompute_modules
    again = [k for o, k in zip(operations, kernels, strict=True) if recomputed(o, modules)]
    launch = launches.repeated(s, operations, modules) * s.layout.cluster.efficiency.launch_us * 1e-6
    return sum(map(_forward, again)), sum(k.launch for k in again) + launch


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
    units = attention.peak(s, o) if o.scores or o.products else peak(s, o)
    moving = kernel.memory + kernel.casts[0]
    return Roofline(products + scores, _moved(s, o), kernel.matmul + kernel.attention, moving, units)


def head(s: Scene) -> Seconds:
    """Output projection, softmax and loss."""
    model, e = s.layout.model, s.layout.cluster.efficiency
    fused = s.framework.fused_loss
    rows = s.vocab / s.words
    seen = s.vocab if s.framework.gathers_logits else rows
    gpu, precision = s.layout.cluster.accelerator, s.layout.training.precision
    sixteen = low_peak(gpu, precision) if s.framework.low_head else gpu.bf16_tflops
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
    rate = gpu.memory_bandwidth_gb_s * 1e9 * e.memory * attention.scanning(s, o)
    elements = _touched(s, o)
    kernels = o.kernels + _pieces(s, o)
    fused = s.framework.kernels.flash and not o.dense
    scored = _scores(s, o) / (attention.peak(s, o) * (attention.rate(s) if fused else e.matmul))
    slower, back = attention.alone(s, o)
    return _Kernel(
        matmul=_products(s, o) / (peak(s, o) * e.matmul),
        attention=scored * slower + attention.narrow(s, o),
        memory=_moved(s, o) / rate + kernels * e.kernel_us * 1e-6,
        returned=s.tokens * sum(t.on_rank(s.degrees) for t in o.returned) / rate
        + attention.BACKWARD * scored * (back - slower),
        casts=casts(s, o, rate),
        gradient=_gradient_bytes(s) * elements / rate,
        launch=0
        if launches.is_captured(s, o)
        else (kernels + launches.beside(s, o) + launches.by_weight(s, o)) * e.launch_us * 1e-6,
    )


def _gradient_bytes(s: Scene) -> Number:
    """Bytes through memory to add a weight's gradient to its sum, which is read and written."""
    f = s.framework
    return 2 * f.gradient_bytes + 4 * (not f.fused_gradients) + f.gradient_passes


def _products(s: Scene, o: Operation) -> Number:
    """FLOPs of the products with weights."""
    ways = {"replicated": 1, "tp": s.layout.tp, "expert": s.layout.tp / s.degrees.load}
    each = (w.elements / ways[w.shard] for w in o.weights if is_matrix(w.name))
    return 2 * s.tokens * o.topk * sum(each)


def _scores(s: Scene, o: Operation) -> Number:
    """FLOPs of attention's two products, or of a scan; fused, those of tokens behind the mask are left out."""
    sequence = s.layout.training.sequence
    seen = 0.5 * attention.seen(s, o.window) if s.framework.kernels.flash and not o.dense else 1
    done = sequence * (o.computed or o.scores) * seen + o.products
    return 2 * s.tokens * done / (1 if o.shared else s.layout.tp)


def _moved(s: Scene, o: Operation) -> Number:
    """Bytes that the kernels read and write, the weights among them, in as many bits as their products take."""
    squared = s.layout.training.sequence * (1 + _pieces(s, o))
    each = sum(t.on_rank(s.degrees) * (squared if t.squared else 1) for t in o.moved)
    several = (s.layout.micro_batch > 1) * (not s.framework.batch_first)
    turned = sum(t.on_rank(s.degrees) for t in o.turned) * several
    return s.tokens * (each + turned) + weight_bytes(s, o) * _touched(s, o)


def _pieces(s: Scene, o: Operation) -> Number:
    """Further kernels of a softmax that is not one."""
    return PIECES * s.framework.softmax_in_pieces * any(t.squared for t in o.moved)


def _touched(s: Scene, o: Operation) -> Number:
    """Weight elements a kernel reads."""
    d = s.degrees
    return sum(w.on_rank(d.tp, d.etp, d.ep) for w in o.weights if is_matrix(w.name))


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
