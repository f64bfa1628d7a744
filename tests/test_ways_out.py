"""What a refusal proposes: as one types it, each way once, and one wherever there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from meshwright.resolver import override, refusals
from techniques_taken import GRAPH, SELECTIVE, B, P, T, described

HALVED: Mapping[str, Any] = {
    B + "precision_aware_optimizer": True,
    B + "optimizer_moments": "bf16",
    B + "optimizer_gradients": "bf16",
    T + "grad_reduce": "bf16",
}


@pytest.mark.parametrize(("named", "left"), [(("atn",), ()), (("atn", "attn"), ("attn",))])
def test_a_misspelled_part_of_a_graph_is_left_out(named: tuple[str, ...], left: tuple[str, ...]) -> None:
    spec = described({GRAPH + "kind": "transformer_engine", GRAPH + "modules": named})
    (problem,) = refusals(spec, "megatron")
    assert f"not [{','.join(named)}] with" in problem.message
    assert problem.repairs[0][GRAPH + "modules"] == left


def test_muon_leaves_every_state_of_a_precision_aware_adam() -> None:
    (problem,) = refusals(described({**HALVED, T + "optimizer.name": "muon", B + "muon.steps": 10}), "megatron")
    wide = {B + f"optimizer_{which}": "fp32" for which in ("moments", "gradients")}
    assert problem.repairs == ({B + "precision_aware_optimizer": False, **wide},)


def test_each_way_out_is_shown_once() -> None:
    graphs = {GRAPH + "kind": "transformer_engine", GRAPH + "modules": ("moe_router", "moe_preprocess")}
    spec = override(described({**SELECTIVE, **graphs}), P + "recompute_modules", ("moe",))
    for problem in refusals(spec, "megatron"):
        assert len({str(sorted(map(str, repair.items()))) for repair in problem.repairs}) == len(problem.repairs)
