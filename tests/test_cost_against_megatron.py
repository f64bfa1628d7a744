"""What a layer keeps, byte by byte, against Megatron's own modules: experts, latent attention, gates, norms."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import spec
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.cost.saved import saved
from meshwright.layout.plan import Plan
from meshwright.model.operation import FUSED
from meshwright.resolver import layout, resolve
from meshwright.spec import Model
from meshwright.spec.model import Mla, Moe

SEQUENCE, BATCH = 64, 2
MOE = Moe(experts=8, topk=2, ffn=48)
SHARED = replace(MOE, shared_ffn=96)
MLA = Mla(kv_lora_rank=32, qk_nope_dim=16, qk_rope_dim=8, v_dim=12, q_lora_rank=40)
NONE: tuple[str, ...] = ()


def model(**changes: Any) -> Model:
    small = Model(
        name="layer",
        layers=1,
        hidden=64,
        ffn=192,
        heads=8,
        kv_heads=4,
        head_dim=16,
        vocab=256,
        max_positions=SEQUENCE,
        activation="swiglu",
        norm="layernorm",
        positions="rope",
    )
    return replace(small, **changes)


LATENT = model(mla=MLA, kv_heads=8)
MODELS: dict[str, tuple[Model, tuple[tuple[str, ...], ...]]] = {
    "grouped queries": (model(), (NONE, ("core_attn",), ("layernorm",), ("mlp",))),
    "three views of one": (model(kv_heads=8, positions="learned"), (NONE, ("core_attn",))),
    "gelu": (model(activation="gelu", linear_bias=True), (NONE, ("core_attn",), ("mlp",))),
    "gelu's gate, unfused": (model(activation="geglu_tanh"), (NONE, ("mlp",))),
    "squared relu": (model(activation="squared_relu"), (NONE,)),
    "norms on both sides": (model(norm_placement="sandwich"), (NONE,)),
    "norms behind": (model(norm_placement="output"), (NONE,)),
    "side by side": (model(parallel_residual=True), (NONE,)),
    "side by side, one norm": (model(parallel_residual=True, shared_parallel_norm=True), (NONE,)),
    "norms of heads": (model(qk_norm="head"), (NONE, ("core_attn",))),
    "sinks": (model(attention_sinks=True), (NONE,)),
    "latent": (LATENT, (NONE, ("layernorm",))),
    "latent, plain queries": (replace(LATENT, mla=replace(MLA, q_lora_rank=None)), (NONE,)),
    "experts": (model(moe=MOE), (NONE, ("layernorm",), ("moe",))),
    "shared": (model(moe=SHARED), (NONE, ("mlp",), ("moe",), ("shared_experts",))),
    "shared, gated": (model(moe=replace(SHARED, shared_gate=True)), (NONE, ("moe",), ("shared_experts",))),
    "sigmoid": (model(moe=replace(MOE, score="sigmoid", router_bias=True)), (NONE,)),
    "auxiliary loss": (model(moe=replace(MOE, aux_loss=0.01)), (NONE,)),
    "sigmoid, its loss": (model(moe=replace(MOE, score="sigmoid", aux_loss=0.01, balancing="seq_aux_loss")), (NONE,)),
    "of all, not normalised": (model(moe=replace(MOE, score_before_topk=True, normalize_topk=False)), (NONE,)),
    "experts in fewer channels": (model(moe=replace(MOE, latent=32)), (NONE, ("moe",))),
    "experts and a norm": (model(moe=replace(MOE, output_norm=True)), (NONE,)),
    "experts of gelu": (model(moe=MOE, activation="gelu"), (NONE,)),
    "DeepSeek's": (replace(LATENT, moe=SHARED), (NONE, ("shared_experts", "layernorm"))),
}
CASES = [(name, tp, modules) for name, (_, each) in MODELS.items() for modules in each for tp in (1, 2)]


def named(name: str, tp: int, modules: tuple[str, ...]) -> str:
    return f"{name}, tp {tp}, {'+'.join(modules) or 'none'}"


def plan(model: Model, tp: int, modules: tuple[str, ...]) -> Plan:
    chosen = {"recompute": "selective", "recompute_modules": modules} if modules else {}
    one = spec(model, tp, SEQUENCE, BATCH, tp=tp, sp=tp > 1, **chosen)
    plain = replace(one.backend.megatron, moe_grouped_gemm=False, transformer="local", attention="unfused")
    training = replace(one.training, micro_batch=BATCH)
    return resolve(replace(one, training=training, backend=replace(one.backend, megatron=plain)))


def counted(plan: Plan) -> float:
    numbers = layout(plan.spec)
    s = scene(numbers, replace(framework_of(numbers), kernels=replace(FUSED, joined=False)))
    return float(saved(s, s.layers[0])) / (SEQUENCE * BATCH)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Bytes of a token, by the name of a case; of latent attention's up-projection too, see below."""
    pytest.importorskip("megatron.core")
    plans = {named(*case): plan(MODELS[case[0]][0], *case[1:]) for case in CASES}
    plans |= {named("up", tp, ("mla_up_proj",)): plan(LATENT, tp, ("mla_up_proj",)) for tp in (1, 2)}
    file = tmp_path_factory.mktemp("kept") / "plans"
    file.write_bytes(pickle.dumps(plans))
    program = Path(__file__).with_name("kept_by_megatron.py")
    done = subprocess.run([sys.executable, str(program), str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: named(*case))
def test_a_layer_keeps_what_megatron_keeps(case: tuple[str, int, tuple[str, ...]], kept: dict[str, float]) -> None:
    name, tp, modules = case
    assert counted(plan(MODELS[name][0], tp, modules)) == pytest.approx(kept[named(*case)], abs=0.01)


@pytest.mark.parametrize("tp", [1, 2])
def test_recomputed_up_projections_begin_with_what_was_compressed(tp: int, kept: dict[str, float]) -> None:
    """On one rank keys' positions are a part of what was projected down, which stays beside its norm's input."""
    beside = 2 * MLA.kv_lora_rank if tp == 1 else 0
    assert counted(plan(LATENT, tp, ("mla_up_proj",))) + beside == kept[named("up", tp, ("mla_up_proj",))]
