"""Time hears the host: many experts on a rank, hooks on gradients; and attention that is not the usual kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost import estimate
from meshwright.cost.attention import alone
from meshwright.cost.compute import head, layer, roofline
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import Scene, scene
from meshwright.cost.launches import CHECKPOINT, LINEAR, LOW, PADDED, ROTARY, ROUTING, beside, repeated, router
from meshwright.cost.launches import LATENT as LATENT_OPERATIONS
from meshwright.cost.layer_time import layer_time
from meshwright.loading import load
from meshwright.measured.rows import row_of
from meshwright.model.operations import Operation
from meshwright.resolver import layout, normalise
from meshwright.spec.model import Mla, Model, Moe
from meshwright.spec.techniques import CudaGraphs


def of(model: Model, **degrees: int) -> Scene:
    return scene(layout(normalise(spec(model, 8, sequence=4096, global_batch=8, **degrees))))


def core(s: Scene) -> Operation:
    (found,) = (o for o in s.layers[0] if o.name == "attention.core")
    return found


MOE = small_model(hidden=2048, heads=16, kv_heads=16, head_dim=128, moe=Moe(experts=128, topk=8, ffn=768))


def test_many_experts_on_a_rank_wait_for_the_host() -> None:
    alone, spread = (layer(s, s.layers[0]) for s in (of(MOE), of(MOE, ep=8)))
    assert alone.idle[0] > 0
    assert alone.total > 2 * spread.total
    assert alone.idle[0] > 3 * spread.idle[0]


def test_a_gradient_that_is_added_by_itself_costs_the_host_more() -> None:
    s = of(MOE)
    fused = replace(s, framework=replace(s.framework, gradient_launches=0.0))
    assert layer(fused, s.layers[0]).total < layer(s, s.layers[0]).total
    options = replace(s.layout.backend.megatron, gradient_accumulation_fusion=True)
    backend = replace(s.layout.backend, megatron=options)
    assert framework_of(replace(s.layout, spec=replace(s.layout.spec, backend=backend))).gradient_launches == 0


@pytest.mark.parametrize(("capability", "slower"), [("8.0", 1.0), ("9.0", 1.33), ("10.0", 1.29)])
def test_narrow_heads_do_fewer_products_for_each_exponential(capability: str, slower: float) -> None:
    """Since Hopper. Half the channels and twice the heads are the same products."""

    def seconds(head_dim: int) -> float:
        s = of(small_model(hidden=8192, heads=8192 // head_dim, kv_heads=8192 // head_dim, head_dim=head_dim))
        gpu = replace(s.layout.cluster.accelerator, capability=capability)
        cluster = replace(s.layout.cluster, accelerator=gpu)
        s = replace(s, layout=replace(s.layout, spec=replace(s.layout.spec, cluster=cluster)))
        return float(layer(s, (core(s),)).forward)

    assert seconds(64) / seconds(128) == pytest.approx(slower, abs=0.02)
    assert seconds(256) == pytest.approx(seconds(128))


def test_a_scan_moves_its_bytes_at_half_the_rate_on_blackwell() -> None:
    """What only moves takes twice as long there; no other operation does."""

    def seconds(name: str, capability: str) -> float:
        nemotron = load(["model=nemotron_3_nano_30b_a3b", "cluster=dgx_h100", "cluster.gpus=8"]).stages[0]
        gpu = replace(nemotron.cluster.accelerator, capability=capability)
        s = scene(layout(normalise(replace(nemotron, cluster=replace(nemotron.cluster, accelerator=gpu)))))
        (found,) = {o for operations in s.layers for o in operations if o.name == name}
        return float(roofline(s, found).in_moving)

    hopper, blackwell = (seconds("mamba.core", capability) for capability in ("9.0", "10.0"))
    assert blackwell == pytest.approx(2 * hopper, rel=0.1)  # kernels begin and end as fast
    assert seconds("mamba.convolution", "10.0") == seconds("mamba.convolution", "9.0")


@pytest.mark.parametrize(
    ("heads", "forward", "backward"), [(64, 1.0, 1.0), (16, 1.16, 1.0), (8, 2.31, 1.16), (4, 4.63, 2.31)]
)
def test_few_heads_leave_multiprocessors_idle(heads: int, forward: float, backward: float) -> None:
    """SimuMax measured 1, 1.5, 2.8 and 5.2 on a B200, backward 1, 1, 1.2 and 2.3 (of what 16 heads reach)."""
    s = of(small_model(hidden=128 * heads, heads=heads, kv_heads=1, head_dim=128))
    b200 = replace(s.layout.cluster.accelerator, capability="10.0")
    s = replace(
        s, layout=replace(s.layout, spec=replace(s.layout.spec, cluster=replace(s.layout.cluster, accelerator=b200)))
    )
    assert alone(s, core(s)) == pytest.approx((forward, backward), abs=0.01)
    assert alone(of(small_model(heads=heads, kv_heads=1)), s.layers[0][0]) == (1, 1)


def test_a_soft_cap_has_a_slower_kernel_and_more_passes_over_the_logits() -> None:
    gemma = load(["model=gemma2_2b", "cluster=dgx_h100", "cluster.gpus=1", "training.global_batch=4"]).stages[0]
    plain = replace(gemma, model=replace(gemma.model, attention_softcap=None, final_softcap=None))
    capped, usual = (scene(layout(normalise(one))) for one in (gemma, plain))
    assert layer(capped, (core(capped),)).forward > 3 * layer(usual, (core(usual),)).forward
    assert head(capped).total > head(usual).total


GEMMA = {
    "row_id": "a",
    "source": "own-h100",
    "model": "gemma2-2b",
    **{"layers": "26", "hidden": "2304", "ffn": "9216", "heads": "8", "kv_heads": "4", "vocab": "256000"},
    "seq": "4096",
    **{"gpu": "H100-80GB", "gpus": "1", "tp": "1", "pp": "1", "cp": "1", "mbs": "1", "gbs": "4", "zero_stage": "0"},
    **{"recompute": "none", "precision": "bf16 (fp32 gradients)", "iter_time_s": "1.1395", "peak_mem_gib": "65.57"},
}


def test_a_row_of_a_model_that_we_know_is_predicted_as_its_plan_is() -> None:
    """Gemma 2's soft caps, windows and norms stand in no column."""
    row = row_of(GEMMA)
    assert row.spec.model.attention_softcap == 50
    words = ["model=gemma2_2b", "cluster=dgx_h100", "cluster.gpus=1", "training.global_batch=4"]
    plan = normalise(load([*words, "training.sequence=4096"]).stages[0])
    of_row = estimate(layout(normalise(row.spec)), row.framework)
    assert float(of_row.step_time) == pytest.approx(float(estimate(layout(plan)).step_time), rel=0.001)
    assert float(of_row.peak_memory) == pytest.approx(float(estimate(layout(plan)).peak_memory), rel=0.001)


def _graphs(s: Scene, kind: str, modules: tuple[str, ...] = ()) -> Scene:
    """The same with CUDA graphs."""
    options = replace(s.layout.backend.megatron, cuda_graphs=CudaGraphs(kind=kind, modules=modules))  # type: ignore[arg-type]
    backend = replace(s.layout.backend, megatron=options)
    return scene(replace(s.layout, spec=replace(s.layout.spec, backend=backend)))


def test_graphs_before_the_experts_do_not_hide_what_is_in_them() -> None:
    """The host starts experts when their counts are there: then the device has done what the graphs hold."""
    s = _graphs(of(MOE), "transformer_engine", ("attn", "moe_router", "moe_preprocess"))
    kernels = [(o.name.startswith(("dispatch", "experts.", "combine")), layer(s, (o,))) for o in s.layers[0]]
    before = sum(one.forward - one.idle[0] for counted, one in kernels if not counted)
    host = sum(one.forward for counted, one in kernels if counted)  # each waits for the host
    assert layer(s, s.layers[0]).forward == pytest.approx(before + host, rel=0.05)
    assert layer(_graphs(of(MOE), "full_iteration"), s.layers[0]).idle[0] == 0


def test_shared_experts_beside_the_dispatch_are_in_no_graph() -> None:
    """core/transformer/transformer_layer.py:1146."""
    s = _graphs(of(MOE), "transformer_engine", ("moe_router",))
    options = replace(s.layout.backend.megatron, moe_shared_expert_overlap=True)
    backend = replace(s.layout.backend, megatron=options)
    beside = scene(replace(s.layout, spec=replace(s.layout.spec, backend=backend)))
    assert "shared_experts." in s.framework.captured
    assert "shared_experts." not in beside.framework.captured


@pytest.mark.parametrize(("ep", "slower"), [(8, False), (16, True)])
def test_deepep_is_slow_over_more_nvlink_peers_than_it_was_made_for(ep: int, slower: bool) -> None:
    words = ["model=deepseek_v3", "cluster=gb200_nvl72", "cluster.gpus=64", f"parallelism.ep={ep}", "software=ngc"]
    words += ["training.global_batch=64", "parallelism.zero=1", "backend.megatron.moe_dispatcher=flex"]
    scenes = [
        scene(layout(normalise(load([*words, f"backend.megatron.moe_flex_backend={name}"]).stages[0])))
        for name in ("deepep", "hybridep")
    ]
    deep, hybrid = (layer_time(s, s.kinds[-1], s.layers[-1]).expert[1] for s in scenes)
    assert (deep > 1.5 * hybrid) == slower


LATENT = Mla(q_lora_rank=1536, kv_lora_rank=512, qk_nope_dim=128, qk_rope_dim=64, v_dim=128)


def _recomputing(modules: tuple[str, ...], captured: tuple[str, ...] = ()) -> Scene:
    """Latent attention on few tokens, for which the host takes longer than the device."""
    s = of(replace(MOE, mla=LATENT))
    p = replace(s.layout.spec.parallelism, recompute="selective" if modules else "none", recompute_modules=modules)
    numbers = layout(normalise(replace(s.layout.spec, parallelism=p)))
    return _graphs(scene(numbers), "transformer_engine", captured) if captured else scene(numbers)


def test_the_host_starts_again_what_is_recomputed() -> None:
    """Products of the up-projection, what surrounds and turns them, and the checkpoint itself."""
    scenes = [_recomputing(modules) for modules in ((), ("mla_up_proj",))]
    hookless = [replace(s, framework=replace(s.framework, gradient_launches=0.0)) for s in scenes]
    kept, again = (layer(s, s.layers[0]) for s in hookless)
    started = 2 * (1 + LINEAR) + LATENT_OPERATIONS + ROTARY + CHECKPOINT
    host = started * scenes[0].layout.cluster.efficiency.launch_us * 1e-6
    assert kept.idle[1] > 0
    assert again.total - kept.total == pytest.approx(host)


ROUTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "loss": {"aux_loss": 0.01},
    "z_loss": {"aux_loss": 0.01, "z_loss": 0.001},
    "groups": {"aux_loss": 0.01, "groups": 8, "group_topk": 4},
    "scored": {"score": "sigmoid", "router_bias": True},
    "deepseek": {"score": "sigmoid", "router_bias": True, "groups": 8, "group_topk": 4, "aux_loss": 0.01},
}


@pytest.fixture(scope="module")
def megatrons() -> Any:
    """Calls of torch, by what makes them."""
    program = Path(__file__).with_name("calls_of_megatron.py")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, env=dict(os.environ), check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_a_router_takes_the_host_as_many_calls_as_megatrons_makes(megatrons: Any) -> None:
    assert MOE.moe is not None
    moes = {name: replace(MOE.moe, **options) for name, options in ROUTERS.items()}
    ours = {f"{name}{', fused' * on}": router(moe, on) for name, moe in moes.items() for on in (False, True)}
    assert ours == {name: pytest.approx(calls, rel=0.15) for name, calls in megatrons["routers"].items()}


COPIES = 11  # four counts, each a copy and a note of its stream, which a CPU does not need; three of the stream


def test_an_exchange_of_padded_experts_takes_the_host_as_many_calls_fewer_as_megatrons(megatrons: Any) -> None:
    counted, padded = (megatrons["exchanges"][name] for name in ("counted", "padded"))
    assert padded / (counted + COPIES) == pytest.approx(PADDED / ROUTING, rel=0.03)
    s = of(MOE)
    alone = replace(s, framework=replace(s.framework, reads_counts=False))
    dispatch = next(o for o in s.layers[0] if o.name == "dispatch")
    assert (beside(s, dispatch), beside(alone, dispatch)) == (ROUTING, PADDED)


def test_a_linear_of_transformer_engine_takes_the_host_longer_than_torchs() -> None:
    """In bf16 2.7 times as long, in 8 bits twice that (NVIDIA/TransformerEngine#2053, #761)."""
    words = ["model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "training.global_batch=8"]
    scenes = [scene(layout(normalise(load([*words, *more]).stages[0]))) for more in ([], ["training.precision=mxfp8"])]
    plain, eight = (next(beside(s, o) for o in s.layers[0] if o.name == "attention.qkv") for s in scenes)
    assert 1 + plain == pytest.approx(99.66 / 37.08, rel=0.01) == pytest.approx(90.53 / 33.17, rel=0.02)
    assert (1 + eight) / (1 + plain) == pytest.approx(2, rel=0.01) == pytest.approx((1 + LINEAR + LOW) / (1 + LINEAR))


def test_what_is_recomputed_inside_a_graph_costs_the_device_alone() -> None:
    captured, started = (_recomputing(("mla_up_proj",), graph) for graph in (("attn",), ()))
    assert repeated(captured, captured.layers[0], ("mla_up_proj",)) == 0
    assert repeated(started, started.layers[0], ("mla_up_proj",)) == CHECKPOINT
    assert repeated(started, started.layers[0], ("moe_act", "mla_up_proj")) == 2 * CHECKPOINT


def test_experts_padded_to_a_capacity_are_started_without_their_counts() -> None:
    s = _graphs(of(MOE), "transformer_engine", ("attn", "moe_router", "moe_preprocess"))
    padded = replace(s, framework=replace(s.framework, reads_counts=False))
    waits, runs_ahead = (layer(one, one.layers[0]) for one in (s, padded))
    assert runs_ahead.forward < waits.forward
    spared = 2 * (ROUTING - PADDED) * s.layout.cluster.efficiency.launch_us * 1e-6
    assert waits.backward - runs_ahead.backward == pytest.approx(2 * spared)  # it reads nothing back either way


def test_another_micro_batch_fills_the_wait_for_counts() -> None:
    s = _graphs(of(MOE, ep=8), "transformer_engine", ("attn", "moe_router", "moe_preprocess"))
    p = replace(s.layout.spec.parallelism, overlap_ep=True)
    overlapped = replace(s, layout=replace(s.layout, spec=replace(s.layout.spec, parallelism=p)))
    alone, beside_another = (layer(one, one.layers[0]) for one in (s, overlapped))
    assert beside_another.forward < alone.forward
    assert beside_another.behind == 0 < alone.behind


def test_what_experts_send_back_is_not_hidden_behind_their_start() -> None:
    """The next counts, and so the next experts, come after it."""
    words = ["model=deepseek_v3", "cluster=gb200_nvl72", "cluster.gpus=64", "parallelism.ep=64", "software=ngc"]
    words += ["training.global_batch=64", "parallelism.zero=1", "backend.megatron.moe_dispatcher=flex"]
    s = _graphs(scene(layout(normalise(load(words).stages[0]))), "transformer_engine", ("attn", "moe_router"))
    efficiency = replace(s.layout.cluster.efficiency, launch_us=100.0)  # far slower than what is sent
    ahead = replace(s, framework=replace(s.framework, reads_counts=False)).at(efficiency)
    back, hidden = (layer_time(one, one.kinds[-1], one.layers[-1]).expert[0] for one in (s.at(efficiency), ahead))
    assert hidden == 0
    assert back > 0


def test_biases_of_experts_are_pieces_unless_one_operation_holds_the_mlp() -> None:
    s = of(replace(MOE, linear_bias=True))
    one = replace(s, framework=replace(s.framework, kernels=replace(s.framework.kernels, pieced_biases=False)))
    assert s.framework.kernels.pieced_biases
    pieces, fused = (layer(each, each.layers[0]) for each in (s, one))
    assert pieces.forward - pieces.idle[0] > fused.forward - fused.idle[0]
