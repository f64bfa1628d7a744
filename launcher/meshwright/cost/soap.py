"""SOAP: Adam in the eigenbases of a gradient's two squares, which are states of their own and turned in every step.

Of an n x m matrix it keeps both squares and their bases, 8·(n² + m²) bytes beside Adam's moments, and multiplies
8·(n³ + m³) + 12·(n²m + nm²) FLOPs in TF32 (counted by torch in Emerging-Optimizers 0.3, soap/soap.py, with the
Kullback-Leibler squares that Megatron asks for). Two QR decompositions by reflections, 8/3·n³ each with the basis, run
in fp32 at the units' peak here: a bound from below. Tensor-parallel ranks step each its own part of a matrix.
"""

from __future__ import annotations

from meshwright.cost.inputs import Load, Scene
from meshwright.cost.matrices import Matrices, dealt, matrices
from meshwright.cost.numbers import Number, maximum, where

__all__ = ["flops", "states", "turning"]


def flops(n: Number, m: Number) -> tuple[Number, Number]:
    """Of one n x m matrix in a step: products, decompositions."""
    cubes = n**3 + m**3
    return 8 * cubes + 12 * n * m * (n + m), 8 / 3 * cubes


def states(s: Scene, load: Load) -> Number:
    """Bytes of squares and bases on the rank of the stage that is dealt most of them."""
    found = [(one, 8 * (_part(one) ** 2 + one.other**2)) for one in matrices(s, load, "soap")]
    return _most(s, found)


def turning(s: Scene, load: Load) -> Number:
    """Seconds of a step on that rank beside Adam's own."""
    return _most(s, [(one, _seconds(s, one)) for one in matrices(s, load, "soap")])


def _most(s: Scene, found: list[tuple[Matrices, Number]]) -> Number:
    """Matrices are dealt out whole at ZeRO-1: nobody has less than the largest one's, if it has it."""
    whole, even, largest = dealt(s, found)
    return where(s.layout.zero == 0, whole, maximum(even, largest))


def _part(one: Matrices) -> Number:
    return one.cut / one.group.size


def _seconds(s: Scene, one: Matrices) -> Number:
    gpu, e = s.layout.cluster.accelerator, s.layout.cluster.efficiency
    products, decompositions = flops(_part(one), one.other)
    return products / (gpu.fp32_tflops * 1e12 * e.matmul) + decompositions / gpu.full_fp32
