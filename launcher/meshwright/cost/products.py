"""Products with weights in 16 bits or fewer: the matrix units' peak, the bytes of a weight, and quantizing."""

from __future__ import annotations

from meshwright.cost.inputs import Scene
from meshwright.cost.numbers import Number
from meshwright.model.operations import Operation
from meshwright.spec import Accelerator

__all__ = ["casts", "low_peak", "peak", "weight_bytes"]

EIGHT_BITS = {"9": 0.88, "10": 0.99}
"""What 8-bit products reach of their peak over what 16-bit ones reach of theirs, by compute capability.

The best products of an H100 run at 1,402.6 of 1,979 TFLOP/s and 794.5 of 989, of a GB200 at 3,615.6 of 5,000 and 1,822
of 2,500 (stas00/ml-engineering@744d01e compute/accelerator/README.md, "Maximum Achievable Matmul FLOPS")."""


def peak(s: Scene) -> float:
    """FLOP/s in the precision of the linear layers, over those that stay in bf16, too."""
    gpu, precision = s.layout.cluster.accelerator, s.layout.training.precision
    if s.single:
        return gpu.fp32_tflops * 1e12 if s.framework.tf32 else gpu.full_fp32
    low, part = low_peak(gpu, precision), s.framework.low_layers
    return 1e12 / (part / low + (1 - part) / gpu.bf16_tflops)


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
    kernels, part = s.framework.kernels, s.framework.low_layers
    return part * kernels.low_bytes + (1 - part) * 2 if kernels.eight_bit and any(o.casts) else 2.0


def casts(s: Scene, o: Operation, rate: Number) -> tuple[Number, Number]:
    """Seconds in which inputs and gradients are quantized, over the layers that have them.

    Experts' in kernels of their own, or by the products before where operations are fused across an expert's MLP.
    """
    each = s.framework.casts
    fused = s.layout.backend.megatron.op_fuser and o.name.startswith("experts.")
    if each is None or fused:
        return 0, 0
    part = s.framework.low_layers * s.tokens / rate
    inputs, gradients = (part * sum(t.on_rank(s.degrees) for t in tensors) for tensors in o.casts)
    return inputs * (each.joined if o.joined else each.inputs), gradients * each.gradients
