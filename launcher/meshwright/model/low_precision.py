"""Bytes of a weight that products take in 8 or 4 bits."""

from __future__ import annotations

from meshwright.spec import Quantization

__all__ = ["low_bytes"]

_CODED = {"nvfp4": 0.5 + 1 / 16}  # a scale of 8 bits for each 16 elements
_DIRECTIONS = 2


def low_bytes(details: Quantization, precision: str) -> tuple[float, float]:
    """(what a weight takes beyond its 16 bits, below 0 where it has none; bytes of one that is gathered).

    Transformer Engine keeps a weight once for each direction of the product, beside its 16 bits. With ``param_gather``
    Megatron keeps no 16-bit copy and gathers what is coded; mxfp8's two directions are not one another's transpose, so
    that its weights are gathered in 16 bits, into a buffer of their own or the gradients' (megatron-core 0.19.2,
    core/distributed/param_and_grad_buffer.py:303, core/optimizer/distrib_optimizer.py:2887).
    """
    coded = _CODED.get(precision, 1.0)
    if not details.param_gather:
        return _DIRECTIONS * coded, 2.0
    if precision == "mxfp8":
        return _DIRECTIONS * coded - 2.0 + (0.0 if details.reuse_gradient_buffer else 2.0), 2.0
    return _DIRECTIONS * coded - 2.0, coded
