"""The machine of a measured row where it was another than its cluster: the fabric, and kernels of an earlier GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import inf

from meshwright.measured.cells import number, said
from meshwright.spec import Accelerator, Cluster

__all__ = ["as_said", "attention_tflops", "gpu_of"]

_FLASH_2 = re.compile(r"flash[\W_]*(attention|attn)?[\W_]*2|\bfa2|sdpa[\W_]*flash")
_FLASH_2_TFLOPS = 0.35 * 989.4
"""Of FlashAttention-2 on an H100, 35 % of its peak (arXiv:2407.08608, abstract): it issues products as on Ampere.

That it reaches no more on later GPUs is inferred."""
_FLEX = re.compile(r"flex")
_OF_FLASH_2 = 0.87
"""Of that rate flex attention's: 90 % forward and 85 % backward (pytorch.org/blog/flexattention)."""


def as_said(cluster: Cluster, record: Mapping[str, str]) -> Cluster:
    """``cluster`` with the fabric that a column says, ``inter_gb_s`` of a GPU, each way."""
    fabric = number(record, "inter_gb_s")
    return cluster if fabric is None else replace(cluster, inter=replace(cluster.inter, bandwidth_gb_s=fabric))


def attention_tflops(gpu: Accelerator, record: Mapping[str, str]) -> float:
    """What the products of attention by the kernels of ``attn_impl`` reach on ``gpu`` at most."""
    attention = said(record, "attn_impl").lower()
    if float(gpu.capability) < 9:
        return inf
    if _FLEX.search(attention):
        return _FLASH_2_TFLOPS * _OF_FLASH_2
    return _FLASH_2_TFLOPS if _FLASH_2.search(attention) else inf


def gpu_of(record: Mapping[str, str]) -> str:
    """The GPU's name; a question mark says that the source left it to be guessed."""
    return said(record, "gpu").replace("?", "").replace("(", "").replace(")", "")
