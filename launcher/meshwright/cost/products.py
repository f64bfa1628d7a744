"""Products with weights in 16 bits or fewer: the matrix units' peak, the bytes of a weight, and quantizing."""

from __future__ import annotations

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number
from meshwright.model.low_precision import cast_bytes, element_bytes
from meshwright.model.operations import Operation
from meshwright.spec import Accelerator

__all__ = ["casts", "low_peak", "peak", "weight_bytes"]

EIGHT_BITS = {"9": 0.88, "10": 0.99}
"""What 8-bit products reach of their peak over what 16-bit ones reach of theirs, by compute capability.

The best products of an H100 run at 1,402.6 of 1,979 TFLOP/s and 794.5 of 989, of a GB200 at 3,615.6 of 5,000 and 1,822
of 2,500 (stas00/ml-engineering@744d01e compute/accelerator/README.md, "Maximum Achievable Matmul FLOPS")."""


def peak(s: Scene, o: Operation) -> float:
    """FLOP/s of a product in its precision, over the layers."""
    gpu = s.layout.cluster.accelerator
    if s.single:
        return gpu.fp32_tflops * 1e12 if s.framework.tf32 else gpu.full_fp32
    return 1e12 / sum(part / low_peak(gpu, precision) for precision, part in _mixture(s, o))


def _mixture(s: Scene, o: Operation) -> tuple[tuple[str, float], ...]:
    """(precision, part of the layers) of a product: the run's, bf16 at the ends, and what its module has of its own."""
    part, precision = s.framework.low_layers, s.layout.training.precision
    own = next((shares for name, shares in s.framework.own_precision if name == o.name), ())
    rest = part * (1 - sum(share for _, share in own))
    return ((precision, rest), ("bf16", 1 - part), *((kind, part * share) for kind, share in own))


def low_peak(gpu: Accelerator, precision: str) -> float:
    """1e12 FLOP/s in 4 or 8 bits where the precision is such and the GPU has the units."""
    reached = EIGHT_BITS.get(gpu.capability.partition(".")[0], 1.0)
    eight = gpu.fp8_tflops * reached if gpu.fp8_tflops else gpu.bf16_tflops
    if precision == "nvfp4" and gpu.platform == "rocm":
        return gpu.bf16_tflops  # which ROCm/TransformerEngine makes of it first (common/gemm/rocm_gemm.cu)
    if precision == "nvfp4":
        return gpu.fp4_tflops or eight
    return eight if precision.startswith(("fp8", "mxfp8")) else gpu.bf16_tflops


def weight_bytes(s: Scene, o: Operation) -> float:
    """Of an element of a weight: 2, or fewer where the product is in 8 or 4 bits, over the layers."""
    low = s.framework.kernels.eight_bit and any(o.casts)
    return sum(part * element_bytes(precision) for precision, part in _mixture(s, o)) if low else 2.0


def casts(s: Scene, o: Operation, rate: Number) -> tuple[Number, Number]:
    """Seconds in which inputs and gradients are quantized, over the layers that have them.

    Experts' in kernels of their own, or by the products before where operations are fused across an expert's MLP.
    """
    fused = s.layout.backend.megatron.op_fuser and o.name.startswith("experts.")
    if s.framework.casts is None or fused:
        return 0, 0
    inputs, gradients = (s.tokens / rate * sum(t.on_rank(s.degrees) for t in tensors) for tensors in o.casts)
    there = [(cast_bytes(precision), part) for precision, part in _mixture(s, o) if precision != "bf16"]
    read = sum(part * (each.joined if o.joined else each.inputs) for each, part in there)
    return inputs * read, gradients * sum(part * each.gradients for each, part in there)
