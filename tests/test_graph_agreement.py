"""CUDA graphs: we accept what Megatron's own code accepts, over random mixtures of what its checks join with them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from drawn_layouts import MLA
from meshwright.emit.megatron import flags
from meshwright.layout.plan import Plan
from meshwright.resolver import override, refusals, resolve
from meshwright.rules.megatron_graphs import CAPTURED
from meshwright.rules.megatron_offload import OFFLOADED
from meshwright.spec import Spec
from meshwright.spec.techniques import CudaGraphs
from meshwright.verify.pool import Crash, fork_map
from techniques_refused import OURS
from techniques_taken import BITS, FED, GRAPH, HOST, HYBRID, MOE, OFFLOAD, STATIC, B, P, T, described
from test_hybrid import LAYOUTS
from test_megatron_agreement import LATER, Outcome, unchecked

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

RECOMPUTED = ("core_attn", "moe_act", "layernorm", "mlp", "mla_up_proj", "moe", "shared_experts")
LATE: set[str] = set().union(*LATER.values()) | {
    *(f"megatron.{part}" for part in OURS),
    "megatron.offload_modules",  # experts' modules of a model without any: nothing would be offloaded
    "megatron.host_optimizer",  # of FSDP2, whose optimizer is not the one that the host steps
    "megatron.fsdp2_experts_checkpoint",  # experts' checkpoints say so: test_fsdp2_checkpoints.py
    "gtp.fused_mlp",  # the layer says so when it is built
    "gtp.biases",  # the bias does not fit at the first step
    "megatron.mla_bias",  # no flag says it
}
"""Rules whose broken layouts Megatron's parser takes."""


def drawn(rng: random.Random) -> Spec:
    """Mostly what Megatron takes: each part departs from it in a quarter of the draws."""
    moe = rng.choice([MOE, MOE, replace(MOE, first_dense=0), replace(MOE, capacity_factor=1.0), None])
    changes: dict[str, Any] = {"model.moe": moe, P + "ep": 2 if moe else 1}
    for part in (_graphs, _recompute, _offload, _experts, _rest):
        changes |= part(rng, moe is not None)
    return described(changes)


def _some(rng: random.Random, of: tuple[str, ...], most: int = 3) -> tuple[str, ...]:
    return tuple(one for one in of if one in rng.sample(of, rng.randint(1, most)))


def _graphs(rng: random.Random, moe: bool) -> dict[str, Any]:
    kind = rng.choice(["local", "transformer_engine", "transformer_engine", "full_iteration", "none"])
    usual = [("attn", "moe_router", "moe_preprocess"), ("moe_router",), ("attn",)] if moe else [(), ("attn", "mlp")]
    modules = rng.choice([*usual, _some(rng, CAPTURED)])
    return {GRAPH + "kind": kind, GRAPH + "modules": modules if kind in ("local", "transformer_engine") else ()}


def _recompute(rng: random.Random, moe: bool) -> dict[str, Any]:
    said = rng.choice(["none", "selective", "selective", "full"])
    found: dict[str, Any] = {P + "recompute": said}
    if said == "full":
        return {**found, P + "recompute_method": "uniform", P + "recompute_layers": 1}
    modules = _some(rng, RECOMPUTED if moe else RECOMPUTED[:1] + RECOMPUTED[2:5])
    return found | ({P + "recompute_modules": rng.choice([None, modules])} if said == "selective" else {})


def _offload(rng: random.Random, moe: bool) -> dict[str, Any]:
    if rng.random() < 0.7:
        return {}
    modules = rng.choice([("moe_act",), ("expert_fc1",), ("core_attn", "attn_proj"), _some(rng, OFFLOADED)])
    inflight = {OFFLOAD + "inflight": rng.choice([0, 1])} if rng.random() < 0.5 else {}
    return rng.choice([{OFFLOAD + "modules": modules, **inflight}, {OFFLOAD + "layers": 2}])


def _experts(rng: random.Random, moe: bool) -> dict[str, Any]:
    if not moe:
        return {}
    fed: list[dict[str, Any]] = [{}, {}, {B + "moe_dispatcher": "flex"}, {**HYBRID}, {**STATIC}]
    fed += [{**STATIC, B + "moe_paged_stash": True}]
    found = rng.choice(fed)
    overlap = {P + "overlap_ep": True, B + "delay_wgrad": rng.random() < 0.5} if rng.random() < 0.4 else {}
    shared = {B + "moe_shared_expert_overlap": True} if rng.random() < 0.2 else {}
    return {**found, **overlap, **shared}


def _rest(rng: random.Random, moe: bool) -> dict[str, Any]:
    """Dropout, biases, precision, stages, sharding, weights in parts."""
    odd: list[dict[str, Any]] = [
        {"model.attention_dropout": 0.1},
        {"model.hidden_dropout": 0.1},
        {"model.qkv_bias": True},
        {B + "gradient_accumulation_fusion": True},
        {T + "precision": "mxfp8", FED + "padded": moe},
        {T + "precision": "mxfp8", BITS + "param_gather": True},
        {P + "pp": 2, P + "vpp": 2},
        {P + "zero": 3},
        {P + "zero": 3, B + "fsdp": "torch"},
        {P + "gtp": 2},
        {B + "transformer": "local"},
        {B + "moe_grouped_gemm": False},
        {T + "precision": "fp8_delayed"},
        {"model.mla": MLA},
        {"model.mtp": 1},
        {HOST + "fraction": 1.0, B + "precision_aware_optimizer": True},
    ]
    return {key: value for one in rng.sample(odd, rng.choice([0, 1, 1, 2])) for key, value in one.items()}


def compare(chunk: list[Spec]) -> list[Outcome]:
    """Both words on each; runs in a fork."""
    return [Outcome(tuple(p.rule for p in refusals(one, "megatron")), _megatrons_word(one)) for one in chunk]


def _megatrons_word(one: Spec) -> str | None:
    """None where its parser, ``validate_args`` and TransformerConfig take it, else what they say."""
    from meshwright.verify import megatron

    plan = unchecked(one)
    try:
        megatron.parse(plan, flags(plan))
    except BaseException as error:  # SystemExit of the argument parser included
        return f"{type(error).__name__}: {error}"
    return None


def judge(count: int, seed: int) -> list[tuple[Spec, Outcome]]:
    from meshwright.verify import megatron

    rng = random.Random(seed)
    specs = [drawn(rng) for _ in range(count)]
    megatron.warm()
    found = fork_map(compare, [specs[i : i + 20] for i in range(0, count, 20)])
    for chunk in found:
        assert not isinstance(chunk, Crash), chunk.text
    return list(zip(specs, [o for chunk in found if not isinstance(chunk, Crash) for o in chunk], strict=True))


def agreed(outcome: Outcome) -> bool:
    if outcome.theirs is None:
        return set(outcome.ours) <= LATE
    return bool(outcome.ours)


def test_a_hybrid_model_with_experts_has_no_dense_part_to_capture() -> None:
    """Its pattern has dense layers, of which Megatron's check hears nothing."""
    from meshwright.verify import megatron

    graphs = [CudaGraphs(kind="transformer_engine", modules=modules) for modules in (("mlp",), ("mamba", "moe_router"))]
    specs = [override(LAYOUTS["Mamba"], "backend.megatron.cuda_graphs", each) for each in graphs]
    refused, taken = ({problem.rule for problem in refusals(one, "megatron")} for one in specs)
    assert (refused, taken) == ({"megatron.graphs_dense"}, set())
    megatron.warm()
    (word,) = fork_map(_megatrons_word_of_flags, [(resolve(specs[1]), graphs[0])])
    assert "mlp cuda graph is only supported for dense layers" in str(word)


def _megatrons_word_of_flags(job: tuple[Plan, CudaGraphs]) -> str:
    """What it says of a plan whose graphs are others."""
    from meshwright.verify import megatron

    plan, graphs = job
    words = flags(plan)
    start, end = words.index("--cuda-graph-modules"), words.index("--te-rng-tracker")
    try:
        megatron.parse(plan, [*words[: start + 1], *graphs.modules, *words[end:]])
    except AssertionError as error:
        return str(error)
    return "taken"


def check(count: int, seed: int) -> None:
    judged = judge(count, seed)
    wrong = [f"{o.ours} but Megatron: {o.theirs}\n  {flags(unchecked(s))}" for s, o in judged if not agreed(o)]
    assert not wrong, "\n".join(wrong[:5])
    with_graphs = [o for s, o in judged if s.backend.megatron.cuda_graphs.kind != "none"]
    assert 0.15 < sum(not o.ours for o in with_graphs) / len(with_graphs) < 0.6


def test_60_draws() -> None:
    check(60, seed=5)


@pytest.mark.slow  # four times the draws of the test above
def test_240_draws() -> None:
    check(240, seed=3)
