"""Bytes of a weight that products take in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Mapping

from meshwright.spec import Quantization
from meshwright.spec.frozen import dataclass

__all__ = ["CODED", "Casts", "cast_bytes", "directions", "element_bytes", "gathered_bytes", "holds_codes", "low_bytes"]

CODED: Mapping[str, float] = {"nvfp4": 0.5 + 1 / 16}
"""Bytes of an element, where not 1: a scale of 8 bits for each 16 elements."""


def element_bytes(precision: str) -> float:
    """Of what a product reads."""
    return 2.0 if precision == "bf16" else CODED.get(precision, 1.0)


_WHOLE = ("fp8_tensorwise", "fp8_delayed")  # one scale for the whole tensor


def directions(precision: str, capability: str) -> int:
    """Copies of a quantized weight: one for each direction of the product, as 8-bit products read rows only.

    Blackwell's read either way what one scale covers (transformer_engine/pytorch/utils.py
    ``is_non_tn_fp8_gemm_supported``).
    """
    return 1 if precision in _WHOLE and 10 <= float(capability) < 12 else 2


@dataclass(frozen=True)
class Casts:
    """Bytes that quantizing an element moves beyond those of a product in 16 bits.

    Of a product's input, of one that the norm in the same module wrote, of an output's gradient.
    """

    inputs: float
    joined: float
    gradients: float


def cast_bytes(precision: str) -> Casts:
    """In 8 bits an element is read in 16 and written twice, for the product and, transposed, for the weight gradient.

    The product then reads 8 bits where 16 are counted, and a norm writes 8 by itself. NVFP4 reads an element three
    times, for the largest, for the rows and, after a Hadamard transform, for the columns, and what a norm wrote like
    any other (transformer_engine v2.10 pytorch/csrc/quantizer.cpp:1446, extensions/normalization.cpp ``UNFUSED``).
    """
    if precision != "nvfp4":
        return Casts(3.0, 0.0, 3.0)
    coded = CODED[precision]
    each = 3 * 2 + 2 * coded - (2 - coded)
    return Casts(each, each, each)


def gathered_bytes(precision: str) -> tuple[float, float]:
    """Of an element that tensor-parallel ranks gather: (inputs of products, gradients of outputs).

    Transformer Engine quantizes before it gathers, a gradient in both directions unless these are one another's
    transpose (v2.13 pytorch/distributed.py ``gather_along_first_dim``, module/base.py ``grad_output_preprocess``; in
    8 bits since 1.0).
    """
    coded = CODED.get(precision, 1.0)
    return coded, coded * (1 if precision in _WHOLE else 2)


def low_bytes(details: Quantization, precision: str, capability: str = "9.0") -> tuple[float, float]:
    """(what a weight takes beyond its 16 bits, below 0 where it has none; bytes of one that is gathered).

    Transformer Engine keeps a weight in ``directions``, beside its 16 bits. With ``param_gather``
    Megatron keeps no 16-bit copy and gathers what is coded; mxfp8's two directions are not one another's transpose, so
    that its weights are gathered in 16 bits, into a buffer of their own or the gradients' (megatron-core 0.19.2,
    core/distributed/param_and_grad_buffer.py:303, core/optimizer/distrib_optimizer.py:2887).
    """
    coded = CODED.get(precision, 1.0)
    kept = directions(precision, capability) * coded
    if not details.param_gather:
        return kept, 2.0
    if precision == "mxfp8":
        return kept - 2.0 + (0.0 if details.reuse_gradient_buffer else 2.0), 2.0
    return kept - 2.0, coded


def holds_codes(details: Quantization, precision: str) -> bool:
    """Whether Megatron-FSDP shards and gathers a weight in mxfp8 as both its codes, without 16 bits of it.

    ``transpose_weight_buffer`` (megatron-core 0.19.2, its megatron_fsdp/param_and_grad_buffer.py:2628).
    """
    return precision == "mxfp8" and details.param_gather and not details.reuse_gradient_buffer
