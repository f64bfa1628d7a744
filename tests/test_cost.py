"""Cost: parts add up, closed forms agree with what they stand for, and arrays give what numbers give."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from meshwright.cost import cost, estimate
from meshwright.cost.counts import hardware_flops, training_flops
from meshwright.cost.data_parallel import data_volume
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.cost.memory import GIB, Memory, memory
from meshwright.cost.stage_loads import stages_of
from meshwright.cost.traffic import traffic
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import layout, resolve

LLAMA = (
    "model=llama3_8b",
    "cluster=dgx_h100",
    "cluster.gpus=64",
    "training.sequence=8192",
    "training.global_batch=256",
)


def planned(*words: str) -> Plan:
    return resolve(load([*LLAMA, *words]).stages[0])


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("parallelism.tp=4", "parallelism.sp=true", "parallelism.pp=4", "parallelism.vpp=2"),
        ("parallelism.zero=1", "parallelism.recompute=full"),
        ("parallelism.cp=2", "parallelism.recompute=selective"),
    ],
)
def test_parts_add_up(words: tuple[str, ...]) -> None:
    found = cost(planned(*words))
    assert found.step_time == pytest.approx(sum(getattr(found.step, f.name) for f in fields(found.step)))
    for stage in found.stages:
        assert stage.total == pytest.approx(sum(getattr(stage, f.name) for f in fields(Memory)))
    assert all(getattr(found.step, f.name) >= 0 for f in fields(found.step))
    assert found.peak_memory == max(stage.total for stage in found.stages)


def test_arrays_give_what_numbers_give() -> None:
    one = layout(planned("parallelism.tp=2", "parallelism.sp=true").spec)
    varied = {
        "tp": [1, 2, 4, 2],
        "pp": [1, 2, 4, 1],
        "sp": [0, 1, 1, 0],
        "dp": [64, 16, 4, 32],
        "recompute": [0, 1, 2, 2],
    }
    numbers = [name for name in vars(one) if name != "spec"]
    arrays: dict[str, Any] = {name: np.array(varied.get(name, [getattr(one, name)] * 4)) for name in numbers}
    together = estimate(replace(one, **arrays))
    for i in range(4):
        alone = estimate(replace(one, **{name: values[i].item() for name, values in arrays.items()}))
        assert together.step_time[i] == pytest.approx(alone.step_time)
        assert together.peak_memory[i] == pytest.approx(alone.peak_memory)


def test_the_cost_of_a_plan_needs_no_numpy() -> None:
    program = (
        "import sys; from meshwright.compose import load; from meshwright.resolver import resolve;"
        "from meshwright.cost import cost; cost(resolve(load(['recipe=llama3_405b', 'stage=gpus_8192']).stages[0]));"
        "assert 'numpy' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("zero", "times"), [(0, 2), (1, 2), (2, 2), (3, 3)])
def test_volumes_of_the_zero_paper(zero: int, times: int) -> None:
    assert data_volume(zero) == times * 2  # bytes for each 16-bit parameter


def test_traffic_of_data_parallelism() -> None:
    plan = planned("training.grad_reduce=bf16")
    parameters = plan.stages[0].parameters
    assert cost(plan).traffic.data.size == pytest.approx(2 * 2 * parameters * 63 / 64)


def test_model_states_of_the_zero_paper() -> None:
    """Rajbhandari et al. 2020, section 3: 16 bytes a parameter with 16-bit gradients, 2 of them after ZeRO-3."""
    plain = cost(planned("training.grad_reduce=bf16")).stages[0]
    parameters = planned().stages[0].parameters
    assert plain.weights + plain.gradients + plain.optimizer == pytest.approx(16 * parameters)
    sharded = cost(planned("training.grad_reduce=bf16", "parallelism.zero=1")).stages[0]
    assert sharded.weights + sharded.gradients + sharded.optimizer == pytest.approx((4 + 12 / 64) * parameters)


def test_activations_of_the_selective_recomputation_paper() -> None:
    """Korthikanti et al. 2022, table 2: sbh(34 + 5as/h)/t with tensor and sequence parallelism, 34sbh/t selective."""
    words = ("model=gpt3_175b", "cluster=dgx_a100_80gb", "cluster.gpus=8", "training.sequence=2048")
    more = ("parallelism.tp=8", "parallelism.sp=true", "training.global_batch=1", "backend.megatron.attention=unfused")
    dropout = ("model.hidden_dropout=0.1", "model.attention_dropout=0.1")
    sbh = 2048 * 12288
    for recompute, factor in (("none", 34 + 5 * 96 * 2048 / 12288), ("selective", 34)):
        plan = resolve(load([*words, *more, *dropout, f"parallelism.recompute={recompute}"]).stages[0])
        expected = 96 * sbh * factor / 8
        assert cost(plan).stages[0].activations == pytest.approx(expected, rel=0.002)


def test_flops_conventions() -> None:
    model = planned().spec.model
    full = training_flops(model, 8192)
    assert full == pytest.approx(6 * (8_030_261_248 - 128256 * 4096) + 12 * 32 * 4096 * 8192, rel=1e-3)
    assert training_flops(model, 8192, "causal") == pytest.approx(full - 6 * 32 * 4096 * 8192, rel=1e-6)
    assert training_flops(model, 8192, "palm") == pytest.approx(
        6 * (8_030_261_248 - 128256 * 4096) + 12 * 32 * 4096 * 8192
    )
    assert full < hardware_flops(model, 8192, "selective") < hardware_flops(model, 8192, "full") < full * 4 / 3


def test_more_recomputation_needs_less_memory_and_more_time() -> None:
    kinds = [cost(planned(f"parallelism.recompute={kind}")) for kind in ("none", "full")]
    assert kinds[0].peak_memory > kinds[1].peak_memory + 10 * GIB
    assert kinds[0].step_time < kinds[1].step_time


def test_a_wasteful_choice_is_named_with_its_price() -> None:
    dear = planned("parallelism.recompute=full", "parallelism.tp=8", "parallelism.sp=true")
    (advice, *_) = (one for one in cost(dear).advice if one.path == "parallelism.recompute")
    assert re.match(r"full costs \d+% of the step; none fits with \d+ GiB to spare", advice.message)
    cheap = planned("parallelism.recompute=none", "parallelism.tp=8", "parallelism.sp=true")
    price = 1 - cost(cheap).step_time / cost(dear).step_time
    assert f"{price:.0%}" in advice.message


def test_a_plan_that_does_not_fit_is_told_what_would() -> None:
    large = ("training.micro_batch=2", "parallelism.zero=1")
    assert not cost(planned(*large)).fits
    (one,) = (one for one in cost(planned(*large)).advice if one.path == "parallelism.recompute")
    assert re.match(r"full fits with \d+ GiB to spare; the step takes \d+% longer", one.message)
    assert cost(planned(*large, "parallelism.recompute=full")).fits


def test_two_changes_are_named_where_one_is_not_enough() -> None:
    (first, *_) = cost(planned("training.micro_batch=4", "parallelism.zero=0")).advice
    assert " with parallelism.zero=" in first.message


def test_experts_sharded_over_few_ranks_are_gathered_between_nodes() -> None:
    """With ep 8 on 8 GPUs a node, the ranks that share an expert stand on different nodes, whatever shares the rest."""
    words = ("model=deepseek_v2", "cluster.gpus=512", "training.sequence=4096", "training.global_batch=1024")
    spec = load([*LLAMA, *words, "parallelism.zero=3", "parallelism.ep=8"]).stages[0]
    found = cost(resolve(spec))
    # nearly all of the bytes are experts', and each rank sends its own over one network adapter
    sent = found.traffic.data.size / (spec.cluster.inter.bandwidth_gb_s * 1e9)
    assert found.step.data > 0.9 * (1 - spec.cluster.efficiency.overlap) * sent


def test_zero_2_scatters_gradients_in_every_micro_batch() -> None:
    """What is kept of them is a shard: 64 ranks, 4 micro-batches."""
    first, second = (cost(planned(f"parallelism.zero={zero}")).traffic.data.size for zero in (1, 2))
    parameters = planned().stages[0].parameters
    assert second - first == pytest.approx(3 * 4 * parameters * 63 / 64)


def test_gradients_that_are_summed_whole_are_scattered_once_and_held_whole() -> None:
    """FSDP2 without synchronization: 4 micro-batches on 64 ranks, 4 bytes of each; with ZeRO-3, too."""
    for zero in (2, 3):
        plan = planned(f"parallelism.zero={zero}")
        usual = framework_of(layout(plan.spec))
        early, late = (scene(layout(plan.spec), f) for f in (usual, replace(usual, whole_gradients=4.0)))
        load = stages_of(early).loads[0]
        parameters = plan.stages[0].parameters
        held = memory(late, load).gradients  # no part of theirs is there before the last micro-batch's
        sent = traffic(early, load).data.size - traffic(late, load).data.size
        assert (held, sent) == pytest.approx((4 * parameters, 3 * 4 * parameters * 63 / 64))
        assert estimate(layout(plan.spec), late.framework).step_time < estimate(layout(plan.spec)).step_time


def test_a_pipeline_that_runs_dry_idles_as_often() -> None:
    """Of 32 micro-batches each 8 are a pipeline of their own: four times the bubble of 8, and all is sent as often."""
    short, long = (layout(planned("parallelism.pp=4", f"training.global_batch={n}").spec) for n in (128, 512))
    few, often = (estimate(one, replace(framework_of(one), emptied_every=8)).parts for one in (short, long))
    assert (short.microbatches, long.microbatches) == (8, 32)
    assert (often.bubble, often.compute, often.data) == pytest.approx((4 * few.bubble, 4 * few.compute, 4 * few.data))
    assert estimate(long).step_time < estimate(long, replace(framework_of(long), emptied_every=8)).step_time


def test_the_order_of_ranks_decides_which_links_are_crossed() -> None:
    words = ("cluster.gpus=16", "parallelism.pp=4")
    usual = cost(planned(*words)).traffic
    other = cost(planned(*words, "parallelism.order=tp-cp-ep-pp-dp")).traffic
    assert (usual.data.link, usual.pipeline.link) == ("within nodes", "between nodes")
    assert (other.data.link, other.pipeline.link) == ("between nodes", "within nodes")


def test_block_recomputation_repeats_the_first_layers_of_each_chunk_only() -> None:
    words = ("parallelism.tp=4", "parallelism.pp=4", "parallelism.recompute=full")
    whole = cost(planned(*words))
    block = cost(planned(*words, "parallelism.recompute_method=block", "parallelism.recompute_layers=1"))
    assert block.step.recompute == pytest.approx(whole.step.recompute / 8)
    assert block.hfu / block.mfu - 1 == pytest.approx((whole.hfu / whole.mfu - 1) / 8)
    assert whole.traffic.tensor.size / block.traffic.tensor.size == pytest.approx(3 / (2 + 1 / 8))


def test_what_is_recomputed_counts_as_hardware_flops() -> None:
    core, mlp = (
        cost(planned("parallelism.recompute=selective", f"parallelism.recompute_modules=[{module}]"))
        for module in ("core_attn", "mlp")
    )
    assert mlp.hfu / mlp.mfu > core.hfu / core.mfu + 0.1


def test_a_sliding_window_makes_attention_cheaper() -> None:
    full, windowed = (cost(planned(*words)) for words in ((), ("model.sliding_window=1024",)))
    assert windowed.step_time < full.step_time
    assert windowed.notes == ("MFU and HFU count attention in full, as if there were no sliding window",)


def sparse(kernels: str, *words: str) -> Plan:
    """DeepSeek-V3.2 on a layout whose host is slower than tp = 8 with fused kernels."""
    grid = ("cluster.nodes=64", "parallelism.tp=8", "parallelism.sp=true", "parallelism.pp=8", "parallelism.ep=32")
    split = ("parallelism.pipeline_split.last=5", "training.sequence=4096", "training.global_batch=2048")
    chosen = f"backend.megatron.dsa_kernels={kernels}"
    return resolve(load(["model=deepseek_v3_2", "cluster=dgx_h100", *grid, *split, chosen, *words]).stages[0])


def test_kernels_of_sparse_attention_change_no_communication_but_what_hides_it() -> None:
    none, cudnn = (cost(sparse(kernels)) for kernels in ("none", "cudnn"))
    assert none.traffic == cudnn.traffic
    assert none.step.expert > cudnn.step.expert  # which runs while the device waits for the host
    none, cudnn = (cost(sparse(kernels, "cluster.efficiency.launch_us=0.0")) for kernels in ("none", "cudnn"))
    assert (none.step.tensor, none.step.expert) == (cudnn.step.tensor, cudnn.step.expert)


def test_sparse_attention_without_kernels_multiplies_in_32_bits() -> None:
    slower = "cluster.accelerator.full_fp32_tflops=40"
    none, slow = (cost(sparse("none", *words)).step for words in ((), (slower,)))
    assert slow.compute > 1.1 * none.compute
    assert cost(sparse("cudnn")).step == cost(sparse("cudnn", slower)).step


@pytest.mark.parametrize(("vpp", "first"), [(1, 1), (2, 3), (4, 7)])
def test_each_chunk_sends_forward_but_the_last_and_backward_but_the_first(vpp: int, first: int) -> None:
    plan = planned("parallelism.tp=8", "parallelism.pp=2", f"parallelism.vpp={vpp}")
    assert cost(plan).traffic.pipeline.messages == first * plan.batch.microbatches


def test_deepspeed_fills_buckets_and_an_offloaded_optimizer_leaves_the_gpu() -> None:
    words = ("backend=deepspeed", "parallelism.zero=2")
    here = cost(planned(*words)).stages[0]
    small = cost(planned(*words, "backend.deepspeed.reduce_bucket=50000000")).stages[0]
    assert here.communication - small.communication == 2 * 2 * 450e6
    away = cost(planned(*words, "backend.deepspeed.offload_optimizer.device=cpu"))
    assert away.stages[0].optimizer == 0
    assert away.step.offload > 0


def test_copies_of_a_shard_are_kept_and_joined_once_a_step() -> None:
    """HSDP: everything is sharded among half of the ranks, which NVLink joins; optimizer states among all."""
    words = ["model=llama3_70b", "cluster=gb300_nvl72", "cluster.gpus=128", "training.sequence=8192", "software=ngc"]
    words += ["training.global_batch=256", "training.micro_batch=1", "parallelism=zero3"]
    twice = "parallelism.optimizer_instances=2"
    all_of_them, halves, steps_shared = (
        cost(planned(*words, *more))
        for more in ((), (twice,), (twice, "backend.megatron.megatron_fsdp.outer_optimizer=true"))
    )
    for name, ratio in (("weights", 2), ("gradients", 2), ("optimizer", 2)):
        one, two = (getattr(found.stages[0], name) for found in (all_of_them, halves))
        assert two == pytest.approx(ratio * one)
    assert steps_shared.stages[0].optimizer == all_of_them.stages[0].optimizer
    parameters = planned(*words).stages[0].parameters
    assert all_of_them.traffic.data.outside is None
    sent = halves.traffic.data
    assert sent.outside == pytest.approx(2 * 4 * parameters / 64 / 2)  # fp32 gradients of a shard, all-reduced by two
    assert sent.size - sent.outside == pytest.approx(2 * (2 + 2 + 4) * parameters * 63 / 64)  # of two micro-batches


def test_messages_add_up_to_the_traffic() -> None:
    plan = planned("parallelism.tp=4", "parallelism.sp=true", "training.micro_batch=1")
    flow = cost(plan).traffic.tensor
    assert flow.messages == 2 * 32 * 5 * plan.batch.microbatches  # a pair of GEMMs twice a layer: 2 forward, 3 backward
    assert flow.size / flow.messages == pytest.approx(2 * 8192 * 4096 * 3 / 4)
