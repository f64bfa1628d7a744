"""Delta nets, Mamba and HybridModel: what is emitted is Megatron's own pattern, and builds what we count."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_hybrid import hybrid_pattern
from meshwright.imports.found import Place
from meshwright.imports.megatron import of_flags
from meshwright.layout.plan import Plan
from meshwright.model.kinds import ahead_kinds, layer_kinds
from meshwright.model.layers import LayerKind, parts
from meshwright.model.pattern import read_pattern, write_pattern
from meshwright.resolver import refusals, resolve
from meshwright.spec import Model, PipelineSplit, Spec
from meshwright.spec.model import DeltaNet, Indexer, Mamba, Mla, Moe, Multipliers, Rope, RopeScaling, ShortConvolution
from meshwright.verify import verify

MOE = Moe(experts=8, topk=2, ffn=64)
NET = DeltaNet(key_heads=4, value_heads=8, key_dim=16, value_dim=16)
MAMBA = Mamba(heads=8, head_dim=32, groups=4, state=16)
MLA = Mla(kv_lora_rank=16, qk_nope_dim=16, qk_rope_dim=8, v_dim=16, q_lora_rank=32)
INDEXER = Indexer(heads=4, head_dim=16, topk=32)
BARE = replace(MAMBA, norm=False)
FACTORS = Multipliers(attention_out=0.5, mamba_step=0.25, mlp_gate=2.0)
SPLIT = {"tp": 2, "sp": True, "pp": 2, "global_batch": 16}


def mixed(pattern: str, **changes: Any) -> Model:
    """With delta nets, Mamba and experts where the pattern has them."""
    needs = {"delta_net": ("G", NET), "mamba": ("MP", MAMBA), "moe": ("E", MOE), "mla": ("D+", MLA)}
    needs |= {"indexer": ("D", INDEXER), "short_convolution": ("C", ShortConvolution())}
    options = {name: value for name, (symbols, value) in needs.items() if not set(symbols).isdisjoint(pattern)}
    layers = len(read_pattern(pattern))
    return small_model(**{"layers": layers, "pattern": pattern, "transformers": None, **options, **changes})


def by(model: str, candidate: Spec) -> Spec:
    """Built by that class of Megatron's."""
    megatron = replace(candidate.backend.megatron, model=model)  # type: ignore[arg-type]
    return replace(candidate, backend=replace(candidate.backend, megatron=megatron))


def chosen_by(kernels: str, candidate: Spec) -> Spec:
    """Whose kernels attend to what an indexer chose."""
    megatron = replace(candidate.backend.megatron, dsa_kernels=kernels)  # type: ignore[arg-type]
    return replace(candidate, backend=replace(candidate.backend, megatron=megatron))


LAYOUTS: dict[str, Spec] = {
    "Mamba": spec(mixed("M-M*-M-E", activation="squared_relu", positions="none"), 8, **SPLIT),
    "Mamba, chunks and MTP": spec(mixed("M-M*-M*E", mtp=1), 8, vpp=2, ep=2, **SPLIT),
    "Mamba, and attention ahead": spec(mixed("M-M*-M*E/*E", mtp=1), 8, vpp=2, ep=2, **SPLIT),
    "attention, and a delta net ahead twice": spec(mixed("4x(*- *E)/GE", mtp=2), 8, ep=2, **SPLIT),
    "a delta net ahead twice, by one layer": spec(mixed("4x(*- *E)/GE", mtp=2, mtp_repeated=True), 8, ep=2, **SPLIT),
    "delta nets": spec(mixed("2x(3xGE *E)", qk_norm="head", attention_gate=True), 8, ep=2, **SPLIT),
    "delta nets, no rhythm": spec(mixed("2x(2xGE *E) *- G-"), 8, cp=2, pp=2, global_batch=16),
    "delta nets by HybridModel": by("hybrid", spec(mixed("2x(2xGE *E) *- G-"), 8, vpp=2, **SPLIT)),
    "sparse attention": spec(mixed("2xD- 6xDE"), 8, ep=2, **SPLIT),
    "sparse attention, context": spec(mixed("8xD-"), 8, cp=2, cp_comm="all_gather", pp=2, global_batch=16),
    "sparse attention and MTP": chosen_by("cudnn", spec(mixed("2xD- 6xDE", mtp=1), 8, vpp=2, ep=2, **SPLIT)),
    "lightning attention": spec(
        mixed("2x(3xLE *E)", norm_placement="carried", residual_weight=3.5, residual_scale=0.75),
        8,
        vpp=2,
        ep=2,
        **SPLIT,
    ),
    "lightning attention, uneven": spec(mixed("4xL- *E 3xLE"), 8, pp=4, tp=2, sp=True, global_batch=16),
    "latent attention and Mamba": spec(mixed("M-M+M-ME"), 8, **SPLIT),
    "latent experts": spec(mixed("M-M*-M-E", moe=replace(MOE, latent=32, shared_ffn=64)), 8, ep=2, **SPLIT),
    "short convolutions": spec(mixed("2x(2xC- *-) C- *-", qk_norm="head"), 8, **SPLIT),
    "short convolutions and experts": spec(mixed("C- *- 3x(CE *E)"), 8, vpp=2, ep=2, **SPLIT),
    "parallel mixers": spec(mixed("8xP-", multipliers=FACTORS), 8, **SPLIT),
    "parallel mixers beside others": spec(mixed("6xP- C- *-", mamba=BARE), 8, pp=2, global_batch=16),
    "parallel mixers, context": spec(mixed("8xP-"), 8, cp=2, pp=2, global_batch=16),
    "Granite 4": spec(
        mixed("4x(ME *E)", residual_scale=0.22, logit_scale=0.1, moe=replace(MOE, shared_ffn=64)), 8, ep=2, **SPLIT
    ),
    "a plain model by HybridModel": by("hybrid", spec(small_model(transformers=None), 8, **SPLIT)),
}


def unevenly(pattern: str, layout: str) -> Spec:
    candidate = spec(mixed(pattern), 8, pp=2, global_batch=16)
    return replace(candidate, parallelism=replace(candidate.parallelism, pipeline_split=PipelineSplit(layout=layout)))


@pytest.mark.parametrize(
    ("candidate", "written"),
    [
        (LAYOUTS["Mamba"], "M-M*|-M-E"),
        (LAYOUTS["Mamba, chunks and MTP"], "M-|M*|-M|*E/E"),
        (LAYOUTS["Mamba, and attention ahead"], "M-|M*|-M|*E/*E"),
        (LAYOUTS["attention, and a delta net ahead twice"], "*-*E*-*E|*-*E*-*E/GE/GE"),
        (LAYOUTS["delta nets by HybridModel"], "GEGE|*EGE|GE*E|*-G-"),
        (unevenly("M*GE*", "Ett|tttL"), "M*|GE*"),
    ],
)
def test_a_pattern_says_what_each_chunk_holds(candidate: Spec, written: str) -> None:
    assert hybrid_pattern(resolve(candidate)) == written


def test_a_layer_ahead_that_is_as_the_last_one_need_not_be_written() -> None:
    short, whole = (spec(mixed(f"2x(3xGE *E){ahead}", mtp=1), 8, **SPLIT) for ahead in ("", "/*E"))
    assert flags(resolve(short)) == flags(resolve(whole))
    assert cost(resolve(short)).step_time == cost(resolve(whole)).step_time
    assert cost(resolve(short)).step_time != cost(resolve(spec(mixed("2x(3xGE *E)/G-", mtp=1), 8, **SPLIT))).step_time


def test_a_layer_that_runs_twice_ahead_has_its_weights_once_and_its_time_twice() -> None:
    twice = LAYOUTS["a delta net ahead twice, by one layer"]
    once, apart = (replace(twice, model=replace(twice.model, mtp=n, mtp_repeated=False)) for n in (1, 2))
    assert [s.parameters for s in resolve(twice).stages] == [s.parameters for s in resolve(once).stages]
    found = [cost(resolve(one)) for one in (once, twice, apart)]
    assert [one.stages[-1].optimizer for one in found[:2]] == [found[0].stages[-1].optimizer] * 2
    assert found[1].stages[-1].optimizer < found[2].stages[-1].optimizer
    assert found[0].step.compute < found[1].step.compute == found[2].step.compute


def test_both_classes_hold_the_same_parameters() -> None:
    plain = spec(small_model(), 8, **SPLIT)
    assert [s.parameters for s in resolve(plain).stages] == [s.parameters for s in resolve(by("hybrid", plain)).stages]


def kinds_read(model: Model, values: Mapping[str, Any]) -> tuple[LayerKind, ...]:
    """By the pattern that was read, or by its short forms."""
    if values.get("model.pattern"):
        return read_pattern(values["model.pattern"])
    short = {name: values.get(f"model.moe.{name}") for name in ("first_dense", "every")}
    moe = model.moe and replace(model.moe, **{name: value for name, value in short.items() if value is not None})
    return layer_kinds(replace(model, pattern=None, moe=moe))


def symbols_of(layers: tuple[LayerKind, ...]) -> str:
    return "".join(part.symbol for kind in layers for part in parts(kind))


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_emitted_is_read_back(name: str) -> None:
    plan = resolve(LAYOUTS[name])
    source = of_flags([(word, Place("args.txt", 1)) for word in flags(plan)], "args", plan.grid.world)
    model = plan.spec.model
    assert source.asks == ()
    assert source.values["model.layers"] == model.layers
    assert kinds_read(model, source.values) == layer_kinds(model)
    if model.mtp and "model.pattern" in source.values:
        read_again = replace(model, pattern=source.values["model.pattern"], mtp=source.values["model.mtp"])
        assert symbols_of(ahead_kinds(read_again)) * read_again.mtp == symbols_of(ahead_kinds(model)) * model.mtp
    assert source.values["parallelism.vpp"] == plan.spec.parallelism.vpp
    assert source.values["backend.megatron.extra"] == []
    assert source.values.get("model.residual_scale") == model.residual_scale
    for part in ("delta_net", "mamba", "short_convolution", "multipliers", "indexer"):
        value = getattr(model, part)
        read = {path.split(".")[-1]: v for path, v in source.values.items() if path.startswith(f"model.{part}.")}
        assert read.items() <= vars(value).items() if value else not read


def test_an_uneven_pattern_is_read_as_a_layout() -> None:
    plan = resolve(unevenly("M*GE*", "Ett|tttL"))
    source = of_flags([(word, Place("args.txt", 1)) for word in flags(plan)], "args", plan.grid.world)
    assert source.values["parallelism.pipeline_split.layout"] == "Ett|tttL"


def plainly(candidate: Spec) -> Spec:
    """Of PyTorch's layers."""
    megatron = replace(candidate.backend.megatron, transformer="local")
    return replace(candidate, backend=replace(candidate.backend, megatron=megatron))


def offloading(module: str, candidate: Spec) -> Spec:
    """Whose inputs wait on the host."""
    offload = replace(candidate.backend.megatron.activation_offload, modules=(module,))
    megatron = replace(candidate.backend.megatron, activation_offload=offload)
    return replace(candidate, backend=replace(candidate.backend, megatron=megatron))


def fused(candidate: Spec) -> Spec:
    """With Transformer Engine's MLP of one piece."""
    megatron = replace(candidate.backend.megatron, op_fuser=True)
    return replace(candidate, backend=replace(candidate.backend, megatron=megatron))


LLAMA3 = Rope(scaling=RopeScaling(kind="llama3", factor=8.0, original_positions=8192))
BROKEN: dict[str, Spec] = {
    "megatron.gpt": by("gpt", spec(mixed("M-M*"), 8)),
    "megatron.lightning_beside": spec(mixed("4x(L- *-)", mtp=1), 8),
    "megatron.lightning_activation": spec(mixed("4x(L- *-)", activation="squared_relu"), 8),
    "megatron.lightning_cp": spec(mixed("4x(L- *-)"), 8, cp=2),
    "megatron.carried_norm": spec(
        small_model(norm_placement="carried"), 8, recompute="selective", recompute_modules=("layernorm",)
    ),
    "megatron.hybrid_mixers": by("hybrid", spec(small_model(sliding_window=8), 8)),
    "megatron.latent_beside": spec(mixed("M-D*"), 8),
    "megatron.sparse_queries": spec(mixed("8xD-", mla=replace(MLA, q_lora_rank=None)), 8),
    "megatron.sparse_bias": spec(mixed("8xD-", linear_bias=True), 8),
    "megatron.sparse_tp": spec(mixed("8xD-"), 8, tp=2),
    "megatron.sparse_cp": spec(mixed("8xD-"), 8, cp=2),
    "megatron.sparse_transformer": plainly(spec(mixed("8xD-"), 8)),
    "megatron.hybrid_qk_norm": spec(mixed("M-M*", qk_norm="head"), 8),
    "megatron.hybrid_parts": spec(mixed("M-M*", parallel_residual=True), 8),
    "megatron.hybrid_rope": spec(mixed("M-M*", rope=LLAMA3), 8),
    "megatron.hybrid_no_rope": spec(mixed("M-M*", rope=Rope(skip_every=4)), 8),
    "megatron.hybrid_mtp": replace(unevenly("M*GE*", "Ettttt|mL"), model=mixed("M*GE*", mtp=1)),
    "megatron.variant_transformer": plainly(spec(mixed("M-M*"), 8)),
    "megatron.delta_net_beside": spec(mixed("2x(G- W-)", sliding_window=8), 8),
    "megatron.delta_net_activation": spec(mixed("2x(G- *-)", activation="squared_relu"), 8),
    "megatron.delta_net_heads": spec(mixed("2x(G- *-)", delta_net=replace(NET, value_heads=6)), 8),
    "megatron.delta_net_tp": spec(mixed("2x(G- *-)"), 8, tp=8),
    "megatron.mamba_kernel": spec(mixed("M-M*", mamba=replace(MAMBA, kernel=3)), 8),
    "megatron.mamba_groups": spec(mixed("M-M*", mamba=replace(MAMBA, groups=3)), 8),
    "megatron.mamba_tp": spec(mixed("M-M*"), 8, tp=8),
    "megatron.mixers_beside": spec(mixed("4x(C- W-)", sliding_window=8), 8),
    "megatron.mixers_mtp": spec(mixed("4x(C- *-)", mtp=1), 8),
    "megatron.mixers_gtp": spec(mixed("4x(C- *-)"), 8, gtp=2),
    "megatron.mixers_offload": offloading("qkv_linear", spec(mixed("4x(C- *-)"), 8)),
    "megatron.mixers_experts": spec(mixed("4x(P- *E)", multipliers=FACTORS), 8),
    "megatron.mixers_fused_mlp": fused(spec(mixed("8xP-", multipliers=FACTORS), 8)),
    "megatron.mamba_norm": spec(mixed("M-M*", mamba=replace(MAMBA, norm=False)), 8),
    "megatron.mixers_cp": spec(mixed("4x(C- *-)"), 8, cp=2),
    "megatron.mixers_tp": spec(mixed("4x(C- *-)", hidden=66), 8, tp=4),
    "megatron.mamba_cp": spec(mixed("M-M*", mamba=replace(MAMBA, heads=4)), 8, tp=4, cp=2),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_what_megatron_cannot_build_is_refused(rule: str) -> None:
    assert rule in {problem.rule for problem in refusals(BROKEN[rule], "megatron")}


def test_an_indexer_that_cannot_be_fed_is_left_out() -> None:
    whole = small_model(mla=replace(MLA, q_lora_rank=None), indexer=INDEXER)
    (problem,) = refusals(spec(whole, 8), "megatron")
    assert (problem.rule, problem.repairs) == ("megatron.sparse_queries", ({"model.indexer": None},))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (small_model(mamba=MAMBA), "model.mamba: set, and model.pattern has no M"),
        (small_model(pattern="8xG-"), "model.delta_net: not set, and model.pattern has G"),
        (small_model(pattern="8x*-/G-", mtp=1), "model.delta_net: not set, and model.pattern has G"),
        (small_model(pattern="8x*-/*-"), "model.pattern: writes layers of multi-token prediction, model.mtp = 0"),
        (small_model(pattern="8x*-/", mtp=1), "model.pattern: nothing follows /"),
        (small_model(residual_weight=2.0), "model.residual_weight: 2.0, and norm_placement = pre"),
    ],
)
def test_widths_and_the_pattern_belong_together(model: Model, said: str) -> None:
    assert said in "\n".join(map(str, refusals(spec(model, 8), "megatron")))


def test_megatron_builds_what_we_count() -> None:
    pytest.importorskip("megatron.core", reason="megatron-core is not installed")
    plans = [*(resolve(candidate) for candidate in LAYOUTS.values()), *drawn(3)]
    for plan, verdicts in zip(plans, verify(plans), strict=True):
        (verdict,) = (v for v in verdicts if v.backend == "megatron")
        for check in verdict.checks:
            assert check.passed, f"{plan.spec.model.pattern}: {check.name}: {check.details}"


DRAWN = (
    ["attention", "delta_net", "mamba", "none"],
    ["attention", "delta_net"],
    ["attention", "short_convolution", "parallel_mixer"],
)


def drawn(count: int) -> list[Plan]:
    """Random patterns over random layouts, of HybridModel, of GPTModel, and of it with our mixers."""
    rng = random.Random(0)
    found: list[Plan] = []
    while len(found) < count:
        mixers = DRAWN[len(found) % len(DRAWN)]
        kinds = [LayerKind(rng.choice(mixers), rng.choice(["mlp", "experts"])) for _ in range(8)]
        layout = {"tp": rng.choice((1, 2)), "pp": rng.choice((1, 2)), "vpp": rng.choice((1, 2))}
        layout |= {"sp": layout["tp"] > 1, "vpp": layout["vpp"] if layout["pp"] > 1 else 1}
        ahead, mtp = (kinds[:1], rng.choice((0, 1, 2))) if "mamba" in mixers else ((), 0)
        candidate = spec(mixed(write_pattern(kinds, ahead if mtp else ()), mtp=mtp), 8, global_batch=16, **layout)
        if not refusals(candidate, "megatron"):
            found.append(resolve(candidate))
    return found
