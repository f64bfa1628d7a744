"""Megatron-Bridge's recipes of precision by name, field by field (training/mixed_precision.py, commit 067f987)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["fields_of"]

Fields = Mapping[str, Any]

_UNSET: Fields = {
    "fp16": False,
    "bf16": False,
    "grad_reduce_in_fp32": True,
    "fp8": None,
    "fp8_recipe": "tensorwise",
    "fp8_param_gather": False,
    "fp8_amax_history_len": 1,
    "fp8_amax_compute_algo": "most_recent",
    "fp4": None,
    "fp4_recipe": "nvfp4",
    "fp4_param_gather": False,
    "first_last_layers_bf16": False,
    "num_layers_at_start_in_bf16": 0,
    "num_layers_at_end_in_bf16": 0,
    "reuse_grad_buf_for_mxfp8_param_ag": False,
}
"""MixedPrecisionConfig's own defaults: a recipe sets every one of them, whatever the model says (its ``setup``)."""

_BASES: Mapping[str, Fields] = {"bf16": {"bf16": True}, "fp16": {"fp16": True}}
_CURRENT: Fields = {"fp8": "hybrid", "fp8_recipe": "tensorwise", "fp8_param_gather": True}
_SCALINGS: Mapping[str, Fields] = {
    "fp8_delayed_scaling": {
        "fp8": "hybrid",
        "fp8_recipe": "delayed",
        "fp8_amax_history_len": 1024,
        "fp8_amax_compute_algo": "max",
        "fp8_param_gather": True,
    },
    "mxfp8": {
        "fp8": "e4m3",
        "fp8_recipe": "mxfp8",
        "fp8_param_gather": True,
        "reuse_grad_buf_for_mxfp8_param_ag": True,
    },
    "fp8_subchannel_scaling": {"fp8": "hybrid", "fp8_recipe": "blockwise"},
}


def _ends(start: int, end: int) -> Fields:
    """Layers at both ends of the model that stay in 16 bits."""
    return {
        "first_last_layers_bf16": True,
        "num_layers_at_start_in_bf16": start,
        "num_layers_at_end_in_bf16": end,
    }


_FOUR: Fields = {"bf16": True, "fp4": "e2m1", "fp4_param_gather": True}
_RECIPES: Mapping[str, Fields] = {
    **{f"{base}_mixed": fields for base, fields in _BASES.items()},
    **{
        f"{base}_with_{scaling}_mixed": {**fields, **more}
        for base, fields in _BASES.items()
        for scaling, more in {**_SCALINGS, "fp8_current_scaling": {**_CURRENT, **_ends(1, 1)}}.items()
    },
    "nemotron_h_bf16_with_fp8_current_scaling_mixed": {"bf16": True, **_CURRENT, **_ends(2, 2)},
    "nanov2_bf16_with_fp8_current_scaling_mixed": {
        **{"bf16": True, **_CURRENT, "fp8_recipe": "blockwise"},
        **_ends(2, 2),
    },
    "bf16_with_nvfp4_mixed": _FOUR,
    "nemotron_3_super_bf16_with_nvfp4_mixed": {**_FOUR, **_ends(0, 14)},
}
_ALIKE = {"bf16": "bf16_mixed", "16_mixed": "fp16_mixed"}  # NeMo's words for the plain ones


def fields_of(name: str) -> Fields:
    """The fields that a registered recipe sets, dashes for underscores or not; none where no recipe has that name."""
    plain = name.replace("-", "_")
    said = _RECIPES.get(_ALIKE.get(plain, plain))
    return {} if said is None else {**_UNSET, **said}
