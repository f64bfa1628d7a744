"""Bytes that an optimizer keeps of a parameter, its fp32 master copy apart."""

from __future__ import annotations

from typing import Literal

__all__ = ["Moments", "state_bytes"]

Moments = Literal["fp32", "bf16", "fp8"]

_MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "muon": 1}
"""States of a weight matrix. Muon keeps Adam's two of embeddings, head and norms (megatron-core 0.19.2,
core/optimizer/emerging_optimizers.py), which are counted as matrices here."""

_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}


def state_bytes(optimizer: str, moments: Moments = "fp32") -> int:
    """For each parameter, with ``moments`` in that precision."""
    return _MOMENTS[optimizer] * _BYTES[moments]
