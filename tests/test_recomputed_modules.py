"""Modules whose recomputation Megatron refuses, and what to recompute instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from meshwright.resolver import override, refusals
from techniques_taken import MOE, SELECTIVE, B, P, T, described

MODULES = P + "recompute_modules"
TRAPS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "megatron.recompute_latent": ({MODULES: ("mla_up_proj", "layernorm")}, {MODULES: ("layernorm",)}),
    "megatron.recompute_grouped": (
        {MODULES: ("moe_act",), B + "moe_grouped_gemm": False},
        {B + "moe_grouped_gemm": True},
    ),
    "megatron.recompute_delayed": (
        {MODULES: ("moe_act", "core_attn"), T + "precision": "fp8_delayed"},
        {T + "precision": "fp8_tensorwise"},
    ),
}


@pytest.mark.parametrize("rule", TRAPS)
def test_what_megatron_does_not_recompute_is_refused_with_what_it_does(rule: str) -> None:
    trap, way_out = TRAPS[rule]
    (problem,) = refusals(described({"model.moe": MOE, **SELECTIVE, **trap}), "megatron")
    assert problem.rule == rule
    assert way_out in problem.repairs


def test_a_dense_model_has_no_activation_of_experts() -> None:
    spec = override(described({**SELECTIVE, MODULES: ("moe_act",), P + "ep": 1}), "model.moe", None)
    (problem,) = refusals(spec, "megatron")
    assert problem.repairs == ({P + "recompute": "none", MODULES: None},)
