"""Techniques of measured rows: what their columns say, and what empty ones mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import meshwright
from meshwright.measured.predict import predict
from meshwright.measured.row_model import known_model
from meshwright.measured.rows import Row, read, usable
from meshwright.spec.techniques import ActivationOffload, CudaGraphs, FsdpOptions

DEEPSEEK = {
    "row_id": "a",
    "source": "nvidia-megatron-bridge",
    "model": "deepseek-v3",
    "gpu": "GB200",
    "precision": "MXFP8",
    **{"layers": "61", "hidden": "7168", "ffn": "18432", "heads": "128", "vocab": "129280", "seq": "4096"},
    **{"num_experts": "256", "topk": "8", "moe_ffn": "2048", "gpus": "256", "mbs": "1", "gbs": "4096"},
    **{"tp": "1", "pp": "4", "vpp": "4", "cp": "1", "ep": "64", "etp": "1", "zero_stage": "1"},
}
PARTIAL = CudaGraphs(kind="transformer_engine", modules=("attn", "moe_router", "moe_preprocess"))


def row(**cells: str) -> Row:
    (found,), _ = usable([{**DEEPSEEK, **cells}])
    return found


def options(**cells: str) -> Any:
    return row(**cells).spec.backend.megatron


def test_empty_cells_mean_what_the_release_s_recipes_did():
    before, after = options(release="26.04.01"), options(release="26.06")
    assert (before.cuda_graphs, before.op_fuser) == (PARTIAL, False)
    assert (after.cuda_graphs.kind, after.op_fuser) == ("full_iteration", True)
    assert (before.moe_dispatcher, before.moe_flex_backend) == ("flex", "hybridep")
    assert row(release="26.06").spec.parallelism.overlap_ep


def test_a_release_is_found_where_the_source_cites_it():
    assert options(citation="docs/performance-summary.md (26.04.01 container)") == options(release="26.04.01")
    assert options(notes="Pre-Training; NeMo container 26.06") == options(release="26.06")


def test_a_cell_that_says_something_wins():
    said = options(release="26.06", graphs="none", dispatcher="alltoall", fusions="router", overlap="none")
    assert (said.cuda_graphs.kind, said.moe_dispatcher, said.moe_permute_fusion) == ("none", "alltoall", False)
    assert not row(release="26.06", overlap="none").spec.parallelism.overlap_ep


def test_a_source_without_recipes_says_all_itself():
    plain = options(source="ours", release="26.06")
    assert (plain.cuda_graphs.kind, plain.moe_dispatcher, plain.op_fuser) == ("none", "alltoall", False)


def test_what_compiling_joins_and_asynchronous_tp_are_told_by_their_columns() -> None:
    titan = {"source": "torchtitan", "model": "llama3-8b", "gpu": "H100-96GB HBM2e 500W", "num_experts": ""}
    titan |= {"gpus": "64", "tp": "8", "pp": "1", "vpp": "1", "ep": "1", "zero_stage": "3", "mbs": "12", "gbs": "96"}
    titan |= {"hidden": "4096", "ffn": "14336", "heads": "32", "kv_heads": "8", "layers": "32", "precision": "bf16"}
    eager, compiled, beside = (
        row(**titan),
        row(**titan, fusions="compile"),
        row(**titan, fusions="compile", overlap="tp"),
    )
    assert not eager.framework.kernels.norm
    assert not eager.framework.kernels.activation
    assert compiled.framework.kernels.norm
    assert compiled.framework.kernels.activation
    assert (compiled.spec.parallelism.overlap_tp, beside.spec.parallelism.overlap_tp) == (False, True)
    (slow, fast, fastest), *_ = predict([eager, compiled, beside])
    assert slow > fast > fastest


def test_layers_recomputed_or_offloaded_are_counted():
    p = row(recompute="full:5layers").spec.parallelism
    assert (p.recompute, p.recompute_method, p.recompute_layers) == ("full", "block", 5)
    assert options(offload="40 layers").activation_offload == ActivationOffload(layers=40)
    large = options(offload="core_attn+moe_act:350000000").activation_offload
    assert (large.modules, large.min_elements) == (("core_attn", "moe_act"), 350_000_000)
    assert options(offload="moe_act").activation_offload == ActivationOffload(modules=("moe_act",))


def test_layers_that_do_not_divide_leave_the_ends_short():
    """61 over 4 stages: Megatron-Bridge's last one has three fewer, NeMo's first one fewer and its last two."""
    bridge, nemo = (row(source=s).spec.parallelism.pipeline_split for s in (DEEPSEEK["source"], "nvidia-nemo-docs"))
    assert (bridge.first, bridge.last) == (16, 13)
    assert (nemo.first, nemo.last) == (15, 14)


@pytest.mark.parametrize(
    ("cell", "reason"), [({"graphs": "some"}, "graphs = some"), ({"dispatcher": "x"}, "dispatcher = x")]
)
def test_words_that_mean_nothing_skip_the_row(cell, reason):
    _, ((_, _, said),) = usable([{**DEEPSEEK, **cell}])
    assert said.startswith(reason)


def test_a_model_known_by_name_says_what_the_columns_cannot():
    """Mamba layers, latent experts and their width: the source names the model and counts layers alone."""
    sizes = dict.fromkeys(("heads", "ffn", "moe_ffn", "hidden"), "")
    cells = {"model": "nemotron-3-super-120b", "layers": "88", "num_experts": "512", "topk": "22", "vocab": "131072"}
    found = row(**cells, **sizes, pp="1", vpp="1").spec.model
    assert found.mamba is not None
    assert found.moe is not None
    assert (found.layers, found.hidden, found.moe.latent, found.moe.ffn) == (88, 4096, 1024, 2688)
    unknown = {**DEEPSEEK, **cells, "model": "nemotron-h-1b"}
    assert "columns say nothing of Mamba layers" in usable([unknown])[1][0][2]


def test_what_a_graph_leaves_out_is_started_by_the_host():
    """Step 6 of Megatron's log of DeepSeek V3 captured attention and router, but not yet the shared experts."""
    whole, without = (
        row(graphs=f"transformer_engine:attn+moe_router+moe_preprocess{end}") for end in ("", "-shared_experts")
    )
    assert set(whole.framework.captured) - set(without.framework.captured) == {"shared_experts."}
    assert without.spec == whole.spec


def test_a_row_whose_source_notes_a_faulty_kernel_is_left_out():
    (_, (skipped,)) = usable([{**DEEPSEEK, "fusions": "router+permute+experts+NVIDIA/cudnn-frontend#256"}])
    assert "too slow" in skipped[2]


def test_a_host_of_another_time_is_all_that_differs_from_the_cluster():
    log = {"source": "megatron_dsv3_gb200", "graphs": "none", "dispatcher": "alltoall"}
    early, late = (row(**log, release=f"step {n}").spec.cluster.efficiency for n in (5, 7))
    assert early == replace(late, launch_us=early.launch_us)
    assert early.launch_us > 1.5 * late.launch_us


NEMO = {"source": "nvidia-dgxc-benchmarking", "gpu": "H100-80GB", "precision": "bf16", "vpp": "1"}


def test_what_nemo_s_script_of_deepseek_v3_did_in_bf16():
    """Experts padded to a capacity of 1, gradients in fp32 (NeMo@7a8f1cc7 pretrain_deepseek_v3.py, bf16_mixed)."""
    found = row(**NEMO, release="25.04")
    assert found.spec.model.moe is not None
    assert found.spec.model.moe.capacity_factor == 1.0
    assert found.spec.backend.megatron.experts.padded_to_capacity
    assert not found.framework.reads_counts
    assert (found.spec.training.grad_reduce, found.framework.gradient_bytes) == ("fp32", 4.0)


@pytest.mark.parametrize(
    ("cell", "factor", "padded"), [("", None, False), ("1.25", 1.25, False), ("1.1 padded", 1.1, True)]
)
def test_a_capacity_is_even_shares_padded_or_not(cell, factor, padded):
    found = row(source="ours", capacity=cell)
    assert found.spec.model.moe is not None
    assert found.spec.model.moe.capacity_factor == factor
    assert found.spec.backend.megatron.experts.padded_to_capacity == padded


@pytest.mark.parametrize(("cell", "reason"), [("much", "capacity = much"), ("1.0 full", "capacity = 1.0 full")])
def test_a_capacity_that_means_nothing_skips_the_row(cell, reason):
    _, ((_, _, said),) = usable([{**DEEPSEEK, "capacity": cell}])
    assert said.startswith(reason)


def test_a_known_model_has_the_capacity_of_its_column_alone():
    """Mixtral's padded runs by NeMo, of which no other column says so."""
    cells = {"model": "mixtral-8x7b", "layers": "32", "num_experts": "8", "topk": "2", "vocab": "32000"}
    sizes = dict.fromkeys(("heads", "ffn", "moe_ffn", "hidden"), "")
    found = row(**{**NEMO, "source": "nvidia-nemo-docs", "gpu": "B200"}, **cells, **sizes, ep="8", release="25.02")
    assert found.spec.model.moe is not None
    assert found.spec.model.moe.capacity_factor == 1.0
    assert found.spec.backend.megatron.cuda_graphs.kind == "local"


def test_of_a_release_s_presets_the_one_of_the_layout_counts():
    """26.04.01's summary has a layout of B200 that its presets lack and 26.06's have."""
    elsewhere = options(gpu="B200", release="26.04.01", pp="16", vpp="1", ep="8")
    assert (elsewhere.cuda_graphs.kind, elsewhere.moe_flex_backend) == ("none", "hybridep")
    later = options(gpu="B200", release="26.04.01", pp="8", vpp="2", ep="32")
    assert (later.cuda_graphs, later.moe_flex_backend) == (PARTIAL, "deepep")


def test_experts_that_drop_tokens_are_padded_and_read_no_counts():
    """Container 25.09; so says its launcher, or the source beside the model's name."""
    dropping, later = row(release="25.09"), row(release="25.11")
    assert (dropping.framework.reads_counts, later.framework.reads_counts) == (False, True)
    assert not row(release="26.06", notes="DeepSeekV3 (tokendrop)").framework.reads_counts
    assert row(release="25.09", capacity="none").framework.reads_counts


def test_dgx_cloud_s_release_is_found_by_the_version_of_its_readme():
    cells = {"source": "nvidia-dgxc-benchmarking", "model": "grok1-314b", "num_experts": "8", "topk": "2", "pp": "1"}
    cited = {"citation": "github NVIDIA/dgxc-benchmarking@v25.05..v25.05.05 grok1/README.md"}
    wide = {"layers": "64", "tp": "4", "ep": "8", "vpp": "1", "precision": "bf16"}
    assert options(**cells, **wide, **cited).cuda_graphs.kind == "local"
    assert options(**cells, **wide).cuda_graphs.kind == "none"


def test_experts_are_cut_as_all_else_where_nothing_says_how():
    """megatron/core/model_parallel_config.py:506; PyTorch's sharding cuts nothing."""
    cells = {"tp": "2", "ep": "32", "etp": ""}
    assert row(**cells).spec.parallelism.etp == 2
    assert row(**cells, source="nvidia-automodel").spec.parallelism.etp == 1


def test_what_megatron_fsdp_does_beside_is_said_or_of_the_release():
    """Llama's presets and what registers NCCL's buffers have two of each; Nemotron 3 Ultra's shard over replicas."""
    both = FsdpOptions(double_buffer=True, outer_optimizer=True)
    assert options(zero_stage="3", fsdp="double_buffer+outer_optimizer").megatron_fsdp == both
    assert options(zero_stage="1", fsdp="double_buffer").megatron_fsdp == FsdpOptions()
    assert options(zero_stage="3", fsdp="none").megatron_fsdp == options(zero_stage="3").megatron_fsdp == FsdpOptions()
    _, ((_, _, why),) = usable([{**DEEPSEEK, "zero_stage": "3", "fsdp": "triple"}])
    assert why == "fsdp = triple is none of none, double_buffer and outer_optimizer"
    file = Path(meshwright.__file__).parent / "data/measured.csv"
    rows, _ = usable([r for r in read(file) if r["row_id"].endswith(("bridge-0074", "bridge-0260", "bridge-h168"))])
    llama, small, ultra = (row.spec.backend.megatron for row in rows)
    assert llama.megatron_fsdp == small.megatron_fsdp == FsdpOptions(double_buffer=True)
    assert ultra.megatron_fsdp == FsdpOptions(outer_optimizer=True)
    assert ultra.activation_offload.min_elements == 350_000_000
    assert not ultra.quantization.reuse_gradient_buffer  # gradients are sharded


def test_kimi_k2_has_its_own_latent_attention_and_muon():
    cells = {"model": "Kimi-K2", "heads": "64", "num_experts": "384", "vocab": "163840", "gpu": "GB300"}
    found = row(**cells, release="26.04", mbs="2").spec
    assert found.model.mla is not None
    assert found.model.moe is not None
    assert (found.model.moe.shared_ffn, found.model.moe.first_dense) == (2048, 1)
    assert (found.training.optimizer.name, found.parallelism.pipeline_split.last) == ("muon", 13)


def test_layers_of_prediction_may_be_one_that_runs_again():
    """Nemotron 3 Super: attention and experts, twice (Megatron-Bridge recipes/nemotronh/nemotron_3_super.py)."""
    sizes = {"layers": "88", "hidden": "4096", "heads": "32", "ffn": "2688", "moe_ffn": "2688"}
    cells = {"model": "nemotron-3-super-120b", "num_experts": "512", "topk": "22", "pp": "1", "vpp": "1", "ep": "64"}
    found = row(**cells, **sizes, release="26.04", gpu="GB300").spec.model
    assert (found.mtp, found.mtp_repeated) == (2, True)
    assert found.pattern is not None
    assert found.pattern.endswith("/*E")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Qwen3_30B_a3B", "qwen3_30b_a3b"),
        ("llama3.1-405b", "llama3_405b"),
        ("Llama-3.1-8B", "llama3_8b"),
        ("nemotronh_56b", "nemotron_h_56b"),
        ("Nemotron-3-Nano", "nemotron_3_nano_30b_a3b"),
        ("llama4-scout", "llama4_scout_109b"),
        ("qwen2-57b", "qwen2_57b_a14b"),
        ("qwen2.5-7b", "qwen2_5_7b"),
        ("gpt-1.7B", "gpt_1_7b"),
        ("llama", None),
        ("qwen3", None),
    ],
)
def test_a_model_is_known_by_whatever_parts_its_name(name, known):
    found = known_model(name)
    assert (found and found.name) == known


def test_what_runs_beside_no_product_and_stays_in_16_bits_is_of_the_recipe():
    """Bridge overlaps no tensor parallelism in 4 bits; Nemotron 3 Super keeps 14 layers and prediction apart."""
    sizes = {"layers": "80", "hidden": "8192", "heads": "64", "kv_heads": "8", "ffn": "28672", "num_experts": ""}
    llama = {"model": "llama3-70b", **sizes, "tp": "2", "ep": "1", "pp": "4", "vpp": "5", "release": "26.04"}
    four, eight = row(**llama, precision="NVFP4"), row(**llama, precision="MXFP8")
    assert (four.spec.parallelism.overlap_tp, eight.spec.parallelism.overlap_tp) == (False, True)
    sizes = {"layers": "88", "hidden": "4096", "heads": "32", "ffn": "2688", "moe_ffn": "2688"}
    cells = {"model": "nemotron-3-super-120b", "num_experts": "512", "topk": "22", "pp": "1", "vpp": "1", "ep": "64"}
    kept = options(**cells, **sizes, release="26.04", gpu="GB300", precision="NVFP4").quantization
    assert kept.last_layers_bf16 == 14 + 2 * 2


CARD = {
    "source": "nvidia-bridge-cards",
    "model": "nemotron-3-nano-30b-a3b",
    "gpu": "H100-80GB",
    "precision": "BF16",
    **{"layers": "52", "hidden": "2688", "ffn": "1856", "heads": "32", "vocab": "131072", "seq": "8192"},
    **{"num_experts": "128", "topk": "6", "moe_ffn": "1856", "gpus": "16", "tp": "1", "pp": "1", "vpp": "1"},
    **{"ep": "8", "gbs": "512", "mtp": "2:*E", "graphs": "transformer_engine:mamba", "dispatcher": "hybridep"},
}


def test_megatron_bridges_library_recipes_differ_from_its_performance_recipes() -> None:
    """In how the loss is taken, and in what the optimizer keeps."""
    library = row(**CARD, cp="2", release="2026-07-28")
    tuned = row(**CARD, release="2026-08-03")
    fused = [r.spec.backend.megatron.cross_entropy_fusion for r in (library, tuned)]
    assert fused == [False, True]
    assert [r.spec.backend.megatron.optimizer_moments for r in (library, tuned)] == ["fp32", "bf16"]
    assert [r.framework.optimizer_bytes for r in (library, tuned)] == [12, 8]  # whole masters, in bf16, too
    assert row(**CARD, release="2026-08-03", states="fp16+bf16").framework.optimizer_bytes == 6


def test_its_peaks_are_logged_before_graphs_are_captured() -> None:
    logged = row(**CARD, release="2026-08-12")
    captured = replace(logged, framework=replace(logged.framework, holds_graphs=True))
    seconds, memory, _ = predict([logged, captured])
    assert seconds[0] == seconds[1]
    assert memory[0] < memory[1]


@pytest.mark.parametrize("states", ["fp8+bf16", "fp32", "fp32+int8"])
def test_states_that_no_optimizer_keeps_are_refused(states: str) -> None:
    _, ((_, _, reason),) = usable([{**DEEPSEEK, "states": states}])
    assert reason.startswith("states = ")
