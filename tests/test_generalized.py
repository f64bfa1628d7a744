"""Generalized tensor parallelism: an axis of both grids; its ranks keep weights in parts and gather them to be used."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.cost.brought import brought
from meshwright.cost.plan_cost import Cost
from meshwright.cost.techniques import TECHNIQUES
from meshwright.emit.megatron import environment, flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.imports.found import Place, together
from meshwright.imports.megatron import of_flags
from meshwright.imports.run import described
from meshwright.resolver import override, refusals, resolve
from meshwright.rules.requirements import lacking
from meshwright.search.exact import search
from meshwright.search.objective import Goal
from meshwright.search.space import space
from meshwright.spec import Software, Spec
from meshwright.spec.model import Moe

LARGE = small_model(layers=16, hidden=4096, ffn=16384, heads=32, kv_heads=8, head_dim=128, vocab=32_768)
EXPERTS = small_model(hidden=512, ffn=1024, moe=Moe(experts=8, topk=2, ffn=1024))


def parts(gpus: int = 16, **degrees: int) -> Spec:
    return spec(LARGE, gpus, sequence=4096, global_batch=32, zero=1, **degrees)


def costed(one: Spec) -> Cost:
    return cost(resolve(one))


def test_it_stands_behind_tp_and_the_experts_behind_ep() -> None:
    one = spec(EXPERTS, 64, global_batch=32, tp=2, sp=True, gtp=4, cp=2, ep=4, egtp=2, zero=1)
    grid = resolve(one).grid
    assert (list(grid.dense.sizes), list(grid.expert.sizes)) == (
        ["tp", "gtp", "cp", "dp", "pp"],
        ["etp", "ep", "egtp", "edp", "pp"],
    )
    assert grid.world == prod(grid.dense.sizes.values()) == prod(grid.expert.sizes.values()) == 64
    assert (grid.dense.group(0, "gtp"), grid.expert.group(0, "egtp")) == ([0, 2, 4, 6], [0, 4])
    assert "gtp" not in resolve(parts()).grid.dense.sizes


def test_its_ranks_have_micro_batches_of_their_own() -> None:
    assert resolve(parts(gtp=4)).batch == resolve(parts()).batch
    (problem,) = refusals(override(parts(gtp=8), "training.global_batch", 24), "megatron")
    assert str(problem).startswith("training.global_batch: 24 sequences do not divide by micro_batch·gtp·dp = 1·8·2")
    assert problem.repairs


def test_both_ways_of_starting_say_all_parts_of_a_weight() -> None:
    plan = resolve(spec(EXPERTS, 64, global_batch=32, tp=2, sp=True, gtp=4, ep=4, egtp=2, etp=2, zero=1))
    words = flags(plan)
    assert words[words.index("--tensor-parallel-num-weight-shards") + 1] == "8"
    assert words[words.index("--expert-tensor-parallel-num-weight-shards") + 1] == "4"
    made = kwargs(plan)
    assert made["TransformerConfig"]["tensor_parallel_num_weight_shards"] == 8
    assert made["TransformerConfig"]["expert_tensor_parallel_num_weight_shards"] == 4
    groups = made["initialize_model_parallel"]
    assert (groups["gtp_remat_size"], groups["expert_gtp_remat_size"]) == (4, 2)


def test_a_command_line_is_read_back() -> None:
    plan = resolve(spec(EXPERTS, 64, global_batch=32, tp=2, sp=True, gtp=4, ep=4, egtp=2, etp=2, zero=1))
    words = [(word, Place("args.txt", number)) for number, word in enumerate(flags(plan), 1)]
    (stage,) = described(together([of_flags(words, "args", 64)], ("args.txt",)), []).stages
    assert (stage.parallelism.gtp, stage.parallelism.egtp, stage.parallelism.etp) == (4, 2, 2)


def test_graphs_on_blackwell_keep_the_priority_of_its_streams() -> None:
    graphs = override(parts(gtp=2), "backend.megatron.cuda_graphs.kind", "local")
    newer = override(graphs, "cluster.accelerator.capability", "10.0")
    assert "CUDA_GRAPHS_USE_NODE_PRIORITY" in environment(resolve(newer))
    assert "CUDA_GRAPHS_USE_NODE_PRIORITY" not in environment(resolve(graphs))


M = "backend.megatron."


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("gtp.zero", {"parallelism.zero": 3}),
        ("gtp.instances", {"parallelism.optimizer_instances": 2}),
        ("gtp.transformer", {M + "transformer": "local"}),
        ("gtp.tied", {"model.tied_embeddings": True}),
        ("gtp.biases", {"model.qkv_bias": True}),
        ("gtp.biases", {"model.linear_bias": True}),
        ("gtp.low_weights", {"training.precision": "mxfp8", "cluster.accelerator.capability": "10.0"}),
        ("gtp.low_weights", {"training.precision": "nvfp4", "cluster.accelerator.capability": "10.0"}),
        ("gtp.checkpoints", {M + "checkpoint_format": "fsdp_dtensor"}),
        ("gtp.fused_mlp", {M + "op_fuser": True}),
        ("grid.dense_experts", {"parallelism.egtp": 2}),
        ("placement.groups", {"cluster.nvlink_domain": 16, "launch.slurm.segment": 1, "launch.kind": "slurm"}),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(rule: str, changes: dict[str, object]) -> None:
    one = parts(gtp=16) if rule == "placement.groups" else parts(gtp=2)
    for path, value in changes.items():
        one = override(one, path, value)
    problem = next(p for p in refusals(one, "megatron") if p.rule == rule)
    for repair in problem.repairs:
        mended = one
        for path, value in repair.items():
            mended = override(mended, path, value)
        assert rule not in {p.rule for p in refusals(mended, "megatron")}
    assert problem.repairs


def test_shared_experts_in_local_graphs_are_not_run_again_in_8_bits() -> None:
    shared = replace(EXPERTS, moe=Moe(experts=8, topk=2, ffn=1024, shared_ffn=1024))
    one = spec(shared, 16, global_batch=32, gtp=2, recompute="selective", recompute_modules=("shared_experts",))
    one = override(override(one, "training.precision", "fp8_delayed"), M + "cuda_graphs.kind", "local")
    assert "gtp.graphs" in {p.rule for p in refusals(one, "megatron")}
    assert "gtp.graphs" not in {p.rule for p in refusals(override(one, "parallelism.gtp", 1), "megatron")}


@pytest.mark.parametrize("program", ["deepspeed", "torchtitan", "accelerate_fsdp", "accelerate_deepspeed"])
def test_nobody_else_has_it(program: str) -> None:
    assert "gtp.others" in {p.rule for p in refusals(parts(gtp=2), program)}


def test_nodes_need_transformer_engine_2_19() -> None:
    def problems(version: str) -> set[str]:
        has = Software(name="nodes", components={"transformer_engine": version})
        return {p.message for p in lacking(replace(parts(gtp=2), software=has), "megatron")}

    (said,) = problems("2.13.0")
    assert "needs Transformer Engine 2.19.0, which software=nodes has 2.13.0" in said
    assert problems("2.19.0") == set()


def test_rows_are_padded_as_megatron_pads_them() -> None:
    """The 1,024 padded rows of the vocabulary in 3 parts are 48 times 22, not 341."""
    odd = spec(small_model(vocab=1000), 3, global_batch=3, gtp=3, zero=1)
    whole = resolve(override(odd, "parallelism.gtp", 1))
    kept = (resolve(odd).padded_vocab + 32) // 3
    assert kept % 16 == 0
    stage, plain = resolve(odd).stages[0], whole.stages[0]
    assert stage.parameters > plain.parameters // 3
    assert stage.parameters < plain.parameters // 2


def test_states_shrink_and_the_optimizer_is_sharded_over_all() -> None:
    whole, half = costed(parts()).stages[0], costed(parts(gtp=4)).stages[0]
    assert half.weights == pytest.approx(whole.weights / 4, rel=0.01)
    assert half.gradients == pytest.approx(whole.gradients / 4, rel=0.01)
    assert half.optimizer == pytest.approx(whole.optimizer, rel=0.01)
    assert half.activations == whole.activations
    assert half.communication > 2e9 / 2, "a layer's matrices and the vocabulary are gathered into buffers that stay"


def test_weights_travel_in_every_micro_batch_and_gradients_less() -> None:
    plan, flow = resolve(parts(gtp=4)), costed(parts(gtp=4)).traffic
    matrices = sum(stage.parameters for stage in resolve(parts()).stages) - 33 * LARGE.hidden  # without norms
    assert flow.weights.size == pytest.approx(plan.batch.microbatches * (2 + 2 + 4) * matrices * 3 / 4)
    assert flow.weights.link == "within nodes"
    assert flow.data.size < costed(parts()).traffic.data.size / 3


def test_time_is_hidden_within_nvlink_and_not_beyond() -> None:
    often = [override(parts(32, gtp=gtp), "training.global_batch", 512) for gtp in (8, 32)]
    near, far = map(costed, often)
    assert near.step.data < far.step.data
    assert far.step.compute == near.step.compute


def test_experts_in_parts_are_the_experts_alone() -> None:
    whole = spec(EXPERTS, 16, global_batch=32, ep=4, zero=1)
    halves = override(whole, "parallelism.egtp", 2)
    a, b = (resolve(one).stages[0] for one in (whole, halves))
    assert b.expert_parameters == a.expert_parameters / 2
    assert a.parameters - a.expert_parameters == b.parameters - b.expert_parameters
    assert costed(halves).traffic.weights.size > 0


def test_a_search_tries_it_where_nodes_may_have_what_it_needs() -> None:
    one = override(parts(), "parallelism.gtp", 1)
    (technique,) = (t for t in TECHNIQUES if t.name == "weight_parts")
    assert technique.on(one)["parallelism.gtp"] == 8
    old = replace(one, software=Software(name="old", components={"transformer_engine": "2.13.0"}))
    assert technique.on(old) == {}
    (said,) = brought(resolve(parts(gtp=8)).spec)
    assert said.startswith("weight_parts ")
    stated = {"parallelism.gtp": (1, 8), "parallelism.pp": (1,), "parallelism.cp": (1,), "training.micro_batch": (1,)}
    found = search(space(one, stated), Goal(top=50))
    assert {c.spec.parallelism.gtp for c in found.best} == {1, 8}
    for c in found.best:
        assert not refusals(c.spec, "megatron")


def test_no_count_at_all_is_said_once() -> None:
    one = override(override(parts(), "training.global_batch", None), "parallelism.gtp", 0)
    assert [problem.path for problem in refusals(one, "megatron")] == ["parallelism.gtp"]
