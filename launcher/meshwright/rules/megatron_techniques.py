"""Every rule about the techniques that runs on Megatron-core switch on beside a layout."""

from __future__ import annotations

from meshwright.rules import (
    megatron_experts,
    megatron_graphs,
    megatron_groups,
    megatron_offload,
    megatron_overlap,
    megatron_quantization,
    megatron_sharding,
)
from meshwright.rules._rule import Rule

__all__ = ["RULES"]

RULES: tuple[Rule, ...] = (
    *megatron_experts.RULES,
    *megatron_quantization.RULES,
    *megatron_offload.RULES,
    *megatron_overlap.RULES,
    *megatron_sharding.RULES,
    *megatron_graphs.RULES,
    *megatron_groups.RULES,
)
