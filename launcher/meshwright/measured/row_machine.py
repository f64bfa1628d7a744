"""The machine of a measured row where it was another than its cluster: the fabric, and kernels of an earlier GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from meshwright.measured.cells import number, said
from meshwright.spec import Cluster

__all__ = ["as_said"]

_FLASH_2 = re.compile(r"flash[\W_]*(attention|attn)?[\W_]*2|\bfa2|sdpa[\W_]*flash")
_FLASH_2_TFLOPS = 0.35 * 989.4
"""Of FlashAttention-2 on an H100, 35 % of its peak (arXiv:2407.08608, abstract): it issues products as on Ampere.

That it reaches no more on later GPUs is inferred."""
_FLEX = re.compile(r"flex")
_OF_FLASH_2 = 0.87
"""Of that rate flex attention's: 90 % forward and 85 % backward (pytorch.org/blog/flexattention)."""


def as_said(cluster: Cluster, record: Mapping[str, str]) -> Cluster:
    """``cluster`` with what columns say of it: ``inter_gb_s`` of a GPU, each way; whose attention (``attn_impl``)."""
    fabric = number(record, "inter_gb_s")
    if fabric is not None:
        cluster = replace(cluster, inter=replace(cluster.inter, bandwidth_gb_s=fabric))
    attention, gpu = said(record, "attn_impl").lower(), cluster.accelerator
    flex = _FLEX.search(attention) is not None
    if not (flex or _FLASH_2.search(attention)) or float(gpu.capability) < 9:
        return cluster
    reached = _FLASH_2_TFLOPS * (_OF_FLASH_2 if flex else 1)
    slower = min(cluster.efficiency.attention, reached / gpu.bf16_tflops)
    return replace(cluster, efficiency=replace(cluster.efficiency, attention=slower))
