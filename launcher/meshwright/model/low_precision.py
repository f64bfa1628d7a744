"""Bytes of a weight that products take in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Mapping

from meshwright.spec import Quantization

__all__ = ["CODED", "directions", "low_bytes"]

CODED: Mapping[str, float] = {"nvfp4": 0.5 + 1 / 16}
"""Bytes of an element, where not 1: a scale of 8 bits for each 16 elements."""

_WHOLE = ("fp8_tensorwise", "fp8_delayed")  # one scale for the whole tensor


def directions(precision: str, capability: str) -> int:
    """Copies of a quantized weight: one for each direction of the product, as 8-bit products read rows only.

    Blackwell's read either way what one scale covers (transformer_engine/pytorch/utils.py
    ``is_non_tn_fp8_gemm_supported``).
    """
    return 1 if precision in _WHOLE and 10 <= float(capability) < 12 else 2


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
