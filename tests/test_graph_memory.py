"""What CUDA graphs hold: static tensors of each capture, experts' rooms, and what a graph keeps from being freed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshwright.cost import cost
from meshwright.cost.inputs import Scene, scene
from meshwright.cost.saved import saved
from meshwright.resolver import layout, normalise, resolve
from techniques_taken import DENSE, FED, GRAPH, HYBRID, MOE, MXFP8, OFFLOAD, ROUTER, STATIC, B, P, described

TOKENS = SEQUENCE = 512
HIDDEN, LAYERS = 128, 8
INPUT, MASK = 2 * HIDDEN * TOKENS, TOKENS * SEQUENCE


def graphs(kind: str, *modules: str) -> dict[str, Any]:
    return {GRAPH + "kind": kind, GRAPH + "modules": modules}


def held(changes: dict[str, Any], without: dict[str, Any]) -> float:
    """Bytes that ``changes`` add to the first stage's framework."""
    one, other = (cost(resolve(described(each))).stages[0].framework for each in ({**without, **changes}, without))
    return float(one - other)


@pytest.mark.parametrize(
    ("kind", "modules", "without", "layers"),
    [
        ("transformer_engine", (), DENSE, LAYERS * (INPUT + MASK)),  # each gives an output that the next one copies
        ("transformer_engine", ("attn",), DENSE, LAYERS * MASK),  # what attention gives is kept by what comes next
        ("local", ("mlp",), DENSE, LAYERS * INPUT),
        # of eight layers one is dense; seven have shared experts, whose output is added behind the experts
        ("transformer_engine", ROUTER, {}, (LAYERS - 1) * INPUT + LAYERS * MASK),
        ("transformer_engine", ROUTER, {B + "moe_shared_expert_overlap": True}, LAYERS * MASK),
        ("transformer_engine", ROUTER, {"model.moe": replace(MOE, shared_ffn=0)}, LAYERS * MASK),
        ("full_iteration", (), DENSE, 0),
    ],
)
def test_a_graph_keeps_what_it_gives_and_a_mask(
    kind: str, modules: tuple[str, ...], without: dict[str, Any], layers: float
) -> None:
    assert held(graphs(kind, *modules), without) == layers


def test_every_micro_batch_in_flight_has_static_tensors_of_its_own() -> None:
    """Two stages of four layers: the first has two micro-batches under way (1F1B)."""
    assert held(graphs("transformer_engine"), {**DENSE, P + "pp": 2}) == 2 * (LAYERS // 2) * (INPUT + MASK)


def of(changes: dict[str, Any]) -> Scene:
    return scene(layout(normalise(described(changes))))


def experts(s: Scene) -> float:
    """Bytes that a layer's experts keep."""
    return float(saved(s, tuple(o for o in s.layers[1] if o.name.startswith("experts."))))


def test_static_experts_are_kept_by_their_capacity_or_their_pages() -> None:
    static, paged = {**STATIC, **MXFP8}, {**STATIC, **MXFP8, B + "moe_paged_stash": True}
    dealt = experts(of({**HYBRID, **MXFP8, B + "op_fuser": True}))
    assert experts(of(static)) == pytest.approx(1.5 * dealt)
    assert experts(of(paged)) == pytest.approx(1.1 * dealt)


def test_one_layer_at_a_time_is_in_the_room_of_its_capacity_beside_the_pages() -> None:
    """The first stage of two has no head, so that its workspace is a layer's."""
    pair = {**STATIC, **MXFP8, P + "pp": 2}
    rooms, pages = (cost(resolve(described({**pair, B + "moe_paged_stash": on}))).stages[0] for on in (False, True))
    assert pages.workspace - rooms.workspace == pytest.approx(experts(of(pair)))
    assert pages.activations < rooms.activations


def test_pages_on_the_host_are_pinned_whatever_is_in_them() -> None:
    """On each of eight GPUs, of the seven layers with experts."""
    paged = {**STATIC, **MXFP8, B + "moe_paged_stash": True, FED + "stash_host": 0.5}
    host, bare = (cost(resolve(described({**paged, FED + "stash_host": part}))).host for part in (0.5, 0.0))
    dealt = 8 * (LAYERS - 1) * experts(of(paged)) / 1.1
    assert host.activations == pytest.approx(0.5 * dealt)
    assert host.pinned - bare.pinned == pytest.approx(host.activations)
    assert bare.activations == 0


@pytest.mark.parametrize(
    ("changes", "frees"),
    [
        (graphs("transformer_engine", "attn"), True),
        (graphs("transformer_engine", *ROUTER), True),  # all-to-all's tokens are sorted in the graph
        (graphs("transformer_engine", "moe_router"), False),
        ({**HYBRID, **graphs("transformer_engine", *ROUTER)}, False),
        ({**HYBRID, **graphs("local", *ROUTER)}, True),
    ],
)
def test_the_norm_before_the_experts_is_not_recomputed_where_it_leaves_a_graph(
    changes: dict[str, Any], frees: bool
) -> None:
    again = {P + "recompute": "selective", P + "recompute_modules": ("layernorm",)}
    kept, freed = (float(saved(s, s.layers[1])) for s in (of(changes), of({**changes, **again})))
    own = 2 * HIDDEN * TOKENS  # of the two norms, attention's is one module with the product behind it
    assert kept - freed == (own if frees else 0)


def test_norms_at_the_edge_of_a_graph_stay_on_the_gpu() -> None:
    every, one = (
        {OFFLOAD + "modules": modules, OFFLOAD + "min_elements": 1}
        for modules in (("attn_norm", "mlp_norm", "moe_act"), ("moe_act",))
    )
    moved, alone = (cost(resolve(described(named))).stages[0].activations for named in (every, one))
    inside = {**every, **graphs("transformer_engine", *ROUTER)}
    # the one dense layer's second norm ends attention's graph, those of the others begin the router's
    assert cost(resolve(described(inside))).stages[0].activations == alone > moved
