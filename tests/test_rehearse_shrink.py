"""A miniature keeps every kind of parallelism and every part of the model; only sizes shrink."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import meshwright
from builders import llama_405b, small_model, spec
from meshwright.errors import ConfigError
from meshwright.library import files as library
from meshwright.loading import load
from meshwright.rehearse.shapes import small_model as shrink
from meshwright.rehearse.shrink import miniature, one_process, substitutions
from meshwright.resolver import override, refusals, resolve
from meshwright.spec import PipelineSplit
from meshwright.spec.model import Mla, Moe


def kinds(original):
    """Names of the kinds of parallelism a plan uses."""
    plan = resolve(original)
    p, split = plan.spec.parallelism, plan.spec.parallelism.pipeline_split
    found = {axis for axis in ("tp", "pp", "cp", "ep", "etp") if getattr(plan.grid, axis) > 1}
    return (
        found
        | {name for name, on in (("dp", plan.grid.dp > 1), ("sp", p.sp), ("vpp", p.vpp > 1)) if on}
        | ({"uneven"} if p.pp > 1 and split != PipelineSplit() else set())
        | ({f"zero{p.zero}"} if p.zero and plan.grid.dp * plan.grid.cp > 1 else set())
        | ({"recompute"} if p.recompute != "none" else set())
    )


@pytest.mark.parametrize("recipe", library.names())
def test_every_recipe_keeps_its_kinds(recipe):
    for original in library.run(recipe).stages:  # the stages that load gives, test_recipes says
        minis = miniature(original)
        missing = kinds(original) - set().union(*map(kinds, minis))
        assert missing <= ({"zero3"} if original.model.moe and original.parallelism.ep > 1 else set()), "see below"
        assert all(resolve(mini).grid.world <= 4 for mini in minis)
        assert {mini.model for mini in minis} == {minis[0].model}, "one model for all, so that one process compares"
        assert refusals(one_process(minis[0]), minis[0].backend.name) == []


def test_the_405b_layout_on_four_processes():
    both, sharded = miniature(llama_405b())
    assert [[chunk.layers for chunk in stage.chunks] for stage in resolve(both).stages] == [[1], [2], [2], [1]]
    assert (sharded.parallelism.tp, sharded.parallelism.sp, sharded.parallelism.dp) == (2, True, 2)
    assert sharded.parallelism.zero == 1


def test_fsdp_becomes_torchs():
    original = spec(small_model(), 8, global_batch=8, zero=3)
    (mini,) = miniature(original)
    assert (mini.backend.name, mini.backend.megatron.fsdp) == ("megatron", "torch")
    assert any("torch's FSDP2" in text for text in substitutions(original, (mini,)))


def test_fsdp_that_torchs_cannot_becomes_deepspeeds():
    original = spec(small_model(tied_embeddings=True, transformers="llama"), 8, global_batch=8, zero=3)
    (mini,) = miniature(original)
    assert mini.backend.name == "deepspeed"
    assert any("DeepSpeed" in text for text in substitutions(original, (mini,)))


def test_fsdp_beside_ranks_of_experts_becomes_zero_1():
    """Torch's FSDP2 refuses such ranks, and DeepSpeed builds no multi-token prediction."""
    (original,) = load(["recipe=nvidia_nemotron_3_ultra_gb300"]).stages
    (mini,) = miniature(original)
    assert (mini.parallelism.ep, mini.parallelism.zero, mini.backend.name) == (2, 1, "megatron")
    assert any(text.startswith("ZeRO 1 instead of 3") for text in substitutions(original, (mini,)))


def test_one_rank_has_nothing_to_share():
    with pytest.raises(ConfigError, match=r"rehearse\.ranks"):
        miniature(llama_405b(), ranks=1)


def test_the_models_parts_stay():
    moe = Moe(experts=64, topk=6, ffn=1408, shared_ffn=2816, first_dense=3, groups=8, group_topk=3)
    mla = Mla(kv_lora_rank=512, qk_nope_dim=128, qk_rope_dim=64, v_dim=128, q_lora_rank=1536)
    model = small_model(moe=moe, mla=mla, mtp=1, tied_embeddings=True, qkv_bias=True)
    small = shrink(model, 4)
    assert (small.attention, small.gated, small.norm, small.tied_embeddings) == ("mla", True, "rmsnorm", True)
    assert small.moe is not None
    assert small.moe.shared_ffn > 0
    assert small.moe.first_dense == 1
    assert small.mla is not None
    assert small.mla.q_lora_rank is not None
    assert (small.qkv_bias, small.mtp, small.hidden_dropout) == (True, 1, 0.0)


@pytest.mark.parametrize(("kv_heads", "kind"), [(8, "mha"), (4, "gqa"), (1, "mqa")])
def test_the_kind_of_attention_stays(kv_heads, kind):
    assert shrink(small_model(kv_heads=kv_heads), 4).attention == kind


power = st.sampled_from([1, 2, 4])


layouts = st.fixed_dictionaries(
    {
        **dict.fromkeys(("tp", "pp", "cp", "dp", "ep", "etp"), power),
        "vpp": st.sampled_from([1, 2]),
        "zero": st.integers(0, 1),
    }
)
splits = st.sampled_from(["even", "slots", "first", "last", "ends", "layout"])


@settings(max_examples=150, deadline=None)
@given(degrees=layouts, split=splits, moe=st.booleans(), mtp=st.booleans(), ranks=st.sampled_from([2, 4]))
def test_any_layout_keeps_its_kinds(degrees, split, moe, mtp, ranks):
    pp, vpp, dp = degrees["pp"], degrees["vpp"], degrees["dp"]
    chunks = pp * vpp
    layers = {"even": 2 * chunks, "slots": 2 * chunks - 2, "layout": chunks}.get(split, 2 * chunks)
    ends = {
        "slots": PipelineSplit(embedding=True, loss=True),
        "first": PipelineSplit(first=layers // pp),
        "last": PipelineSplit(last=layers // pp),
        "ends": PipelineSplit(first=layers // pp, last=layers // pp),
        "layout": PipelineSplit(layout="E" + "|".join(["t"] * chunks) + "m" * mtp + "L"),
    }
    experts = Moe(experts=8, topk=2, ffn=64, first_dense=0)
    model = small_model(layers=layers, mtp=int(mtp), moe=experts if moe else None)
    if not moe:
        degrees = {**degrees, "ep": 1, "etp": 1}
    world = degrees["tp"] * pp * degrees["cp"] * dp
    division = ends.get(split, PipelineSplit())
    original = spec(model, world, global_batch=4 * dp * pp, sp=degrees["tp"] > 1, pipeline_split=division, **degrees)
    assume(not refusals(original, "megatron"))
    assume(kinds(original) - {"zero1"})
    minis = miniature(original, ranks)
    kept = set().union(*map(kinds, minis))
    missing = kinds(original) - kept - {"recompute"}
    assert missing <= ({"etp"} if ranks < 4 else set()), "ep and etp together need four processes"
    assert all(resolve(mini).grid.world <= ranks for mini in minis)


def test_nothing_of_the_original_data_or_checkpoints_is_touched():
    original = llama_405b()
    data = replace(original.training.data, paths=("/data/corpus",))
    logging = replace(original.training.logging, save="/checkpoints", tensorboard="/board")
    training = replace(original.training, data=data, logging=logging)
    for mini in miniature(replace(original, training=training)):
        assert mini.training.data.paths == ()
        assert mini.training.logging.save is None
        assert mini.training.logging.tensorboard is None


def test_no_heavy_imports():
    import subprocess
    import sys

    modules = "meshwright.verbs.rehearse, meshwright.rehearse"
    code = f"import {modules}, sys; assert not {{'torch', 'megatron'}} & set(sys.modules)"
    path = str(Path(meshwright.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False).returncode == 0


def test_fewer_steps_need_not_learn_as_much() -> None:
    from meshwright.rehearse.run import expected_drop

    assert [expected_drop(steps) for steps in (1, 40, 80)] == [0, 1, 1]
    assert expected_drop(10) < 0.97  # what ten steps of the tiny model lose


def test_deepspeeds_options_that_a_cpu_can_train_with_are_kept():
    words = ("model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "backend=deepspeed", "parallelism=zero3")
    more = ("training.optimizer.name=muon", "training.sequence=4096", "training.global_batch=8")
    tiles = ("backend.deepspeed.tiling.loss=16", "backend.deepspeed.tiling.mlp=2")
    (original,) = load([*words, *more, *tiles]).stages
    (mini,) = miniature(original)
    assert mini.training.optimizer.name == "muon"
    assert (mini.backend.deepspeed.tiling.loss, mini.backend.deepspeed.tiling.mlp) == (4, 2)
    alone = one_process(mini)
    assert (alone.parallelism.zero, alone.backend.deepspeed.tiling.loss) == (1, 1)  # ZeRO clips what Muon made
    assert not any("AdamW" in said for said in substitutions(original, (mini,)))


def test_states_that_leave_go_to_the_hosts_memory_and_what_needs_a_gpu_is_said():
    words = ("model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "backend=deepspeed", "parallelism=zero3")
    host = ("backend.deepspeed.offload_optimizer.device=cpu", "backend.deepspeed.super_offload=true")
    (original,) = load([*words, "training.sequence=4096", "training.global_batch=8", *host]).stages
    (mini,) = miniature(original)
    assert mini.backend.deepspeed.offload_optimizer.device == "cpu"
    assert not mini.backend.deepspeed.super_offload
    assert "plain offload instead of SuperOffload, which needs a CUDA GPU" in substitutions(original, (mini,))


def test_ulysses_is_not_said_to_be_anything_else():
    words = ("model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "backend=deepspeed", "parallelism=zero3")
    (original,) = load([*words, "parallelism.cp=2", "training.sequence=4096", "training.global_batch=4"]).stages
    assert not any("all-gather" in said for said in substitutions(original, miniature(original)))


def test_balancing_over_a_batch_is_balancing_in_a_micro_batch() -> None:
    """Its losses depend on the replicas: 3.3e-3 nats of a rehearsal's 40 steps on two, where 2e-5 are allowed."""
    moe = Moe(experts=8, topk=2, ffn=64)
    for kind, small in (("global_aux_loss", "aux_loss"), ("quantile_balancing", "quantile_balancing")):
        asked = override(spec(small_model(moe=moe), 8), "model.moe.balancing", kind)
        (mini, *_) = minis = miniature(asked)
        assert mini.model.moe is not None
        assert mini.model.moe.balancing == small
        assert any("in each micro-batch" in line for line in substitutions(asked, minis)) == (kind != small)


@pytest.mark.parametrize(("degrees", "kept"), [({"ep": 2}, 1.5), ({"ep": 2, "tp": 2, "sp": True}, None)])
def test_a_capacity_is_kept_where_every_rank_routes_whole_sequences(degrees, kept) -> None:
    moe = Moe(experts=4, topk=2, ffn=64, capacity_factor=1.5, drop_policy="position")
    original = override(spec(small_model(moe=moe), 8, **degrees), "backend.megatron.experts.padded_to_capacity", True)
    minis = miniature(original)
    assert {mini.model.moe.capacity_factor for mini in minis if mini.model.moe} == {kept}
    assert {mini.backend.megatron.experts.padded_to_capacity for mini in minis} == {kept is not None}
    said = [line for line in substitutions(original, minis) if line.startswith("no token is dropped")]
    assert len(said) == (kept is None)


@pytest.mark.parametrize(("zero", "kept"), [(1, True), (3, False)])
def test_a_loss_per_token_is_kept_where_gradients_can_be_divided_by_it(zero: int, kept: bool) -> None:
    original = override(spec(small_model(), 8, global_batch=16, zero=zero), "backend.megatron.per_token_loss", True)
    minis = miniature(original)
    assert [mini.backend.megatron.per_token_loss for mini in (one_process(minis[0]), *minis)] == [kept] * (
        len(minis) + 1
    )
    said = [line for line in substitutions(original, minis) if line.startswith("gradients divided by ranks")]
    assert bool(said) != kept
