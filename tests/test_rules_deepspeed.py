"""What DeepSpeed refuses, or accepts and gets wrong, is refused by name, with a repair that helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from builders import small_model
from meshwright.resolver import override, refusals, resolve
from meshwright.rules.deepspeed import RULES as DEEPSPEED
from meshwright.rules.deepspeed_extra import check_extra
from meshwright.rules.deepspeed_keys import KEYS
from meshwright.rules.host import RULES as HOST
from meshwright.spec import Launch, PipelineSplit
from meshwright.spec.model import Moe
from test_emit_deepspeed import deepspeed

RULES = DEEPSPEED + HOST
MOE = Moe(experts=8, topk=2, ffn=256, aux_loss=0.01)
MIXTRAL = small_model(moe=MOE, transformers="mixtral")
AUTOCAST = "backend.deepspeed.autocast"
AUTOTP = "backend.deepspeed.autotp"
OFFLOAD = "backend.deepspeed.offload_optimizer"
TILES, COMPILE = "backend.deepspeed.tiling", "backend.deepspeed.deep_compile"
WINDOW = small_model(sliding_window=128, transformers="mistral")

TRAPS: Mapping[str, Mapping[str, Any]] = {
    "deepspeed.architecture": {"model.transformers": None},
    "deepspeed.mtp": {"model.mtp": 1, "model.transformers": None},
    "deepspeed.balancing": {
        "model": small_model(moe=Moe(**{**vars(MOE), "balancing": "sinkhorn"}), transformers="mixtral")
    },
    "deepspeed.router_bias": {"model.moe": Moe(**{**vars(MOE), "router_bias": True}), "model.transformers": None},
    "deepspeed.z_loss": {"model": small_model(moe=Moe(**{**vars(MOE), "z_loss": 0.1}), transformers="mixtral")},
    "deepspeed.capacity": {
        "model": small_model(moe=Moe(**{**vars(MOE), "capacity_factor": 1.0}), transformers="mixtral")
    },
    "deepspeed.attention": {"backend.deepspeed.attention": "flash_attention_2", "training.precision": "fp32"},
    "deepspeed.pipeline": {"parallelism.pp": 2},
    "deepspeed.pipeline_split": {"parallelism.pipeline_split": PipelineSplit(first=3)},
    "deepspeed.sp": {"parallelism.sp": True, "parallelism.tp": 2},
    "deepspeed.autotp": {"model": MIXTRAL, "parallelism.tp": 2},
    "deepspeed.kv_heads": {"parallelism.tp": 8},
    "deepspeed.tensor_and_sequence": {"parallelism.tp": 2, "parallelism.cp": 2},
    "deepspeed.autotp_options": {f"{AUTOTP}.overlap": True},
    "deepspeed.vocabulary": {f"{AUTOTP}.vocabulary": True, f"{TILES}.loss": 4, "parallelism.tp": 2},
    "deepspeed.load_universal": {"backend.deepspeed.checkpoint.load_universal": True, "parallelism.zero": 1},
    "deepspeed.checkpoint_writer": {"backend.deepspeed.checkpoint.writer": "python", "parallelism.zero": 2},
    "deepspeed.overlap": {"parallelism.overlap_tp": True},
    "deepspeed.expert_preset": {
        "model": small_model(
            ffn=256,
            moe=Moe(**{**vars(MOE), "score_before_topk": True, "normalize_topk": False}),
            qk_norm="full",
            transformers="olmoe",
        ),
        "parallelism.ep": 2,
    },
    "deepspeed.experts": {"model": MIXTRAL, "parallelism.ep": 8, "cluster.gpus": 4},
    "deepspeed.etp": {"model": MIXTRAL, "parallelism.etp": 2},
    "deepspeed.sequence_experts": {"model": MIXTRAL, "parallelism.ep": 2, "parallelism.cp": 2},
    "deepspeed.overlap_experts": {"parallelism.overlap_ep": True},
    "deepspeed.ulysses": {
        "model": small_model(
            kv_heads=8,
            norm="layernorm",
            activation="gelu",
            linear_bias=True,
            parallel_residual=True,
            transformers="gpt_neox",
        ),
        "parallelism.cp": 2,
    },
    "deepspeed.ulysses_attention": {"backend.deepspeed.attention": "eager", "parallelism.cp": 2},
    "deepspeed.ulysses_window": {"model": WINDOW, "parallelism.cp": 2},
    "deepspeed.sequence": {"training.sequence": 511, "parallelism.cp": 2},
    "deepspeed.sequence_heads": {"cluster.gpus": 12, "parallelism.cp": 3, "training.sequence": 513},
    "deepspeed.precision": {"training.precision": "mxfp8"},
    "deepspeed.stage_0": {"parallelism.zero": 0},
    "deepspeed.grad_reduce": {"training.precision": "fp16", "training.grad_reduce": "bf16"},
    "deepspeed.optimizer": {"training.optimizer.name": "muon", "parallelism.tp": 2},
    "deepspeed.soap": {"training.optimizer.name": "soap"},
    "deepspeed.lion": {"training.optimizer.name": "lion", "backend.deepspeed.bf16_states": True},
    "deepspeed.offload_sgd": {"training.optimizer.name": "sgd", f"{OFFLOAD}.device": "cpu"},
    "deepspeed.offload_optimizer": {"parallelism.zero": 0, "training.precision": "fp32", f"{OFFLOAD}.device": "cpu"},
    "deepspeed.offload_param": {"parallelism.zero": 2, "backend.deepspeed.offload_param.device": "cpu"},
    "deepspeed.nvme": {"parallelism.zero": 2, f"{OFFLOAD}.device": "nvme", f"{OFFLOAD}.nvme_path": "scratch"},
    "deepspeed.nvme_path.offload_optimizer": {"parallelism.zero": 3, f"{OFFLOAD}.device": "nvme"},
    "deepspeed.nvme_path.offload_param": {"backend.deepspeed.offload_param.nvme_path": "scratch"},
    "deepspeed.offload_ratio": {"parallelism.zero": 2, f"{OFFLOAD}.device": "cpu", f"{OFFLOAD}.ratio": 0.5},
    "deepspeed.offload_ratio_adam": {
        "parallelism.zero": 3,
        **{f"{OFFLOAD}.device": "cpu", f"{OFFLOAD}.ratio": 0.5, "backend.deepspeed.torch_adam": True},
    },
    "host.memory": {f"{OFFLOAD}.device": "cpu", "cluster.host_memory_gib": 0.01},
    "host.nvme": {
        "parallelism.zero": 3,
        **{f"{OFFLOAD}.device": "nvme", f"{OFFLOAD}.nvme_path": "scratch", "cluster.nvme_gib": 0.01},
    },
    "deepspeed.offload_param_ratio": {"backend.deepspeed.offload_param.ratio": 0.5},
    "deepspeed.hpz_stage": {"backend.deepspeed.hpz": 2},
    "deepspeed.hpz": {"parallelism.zero": 3, "backend.deepspeed.hpz": 3},
    "deepspeed.hpz_tensor": {"parallelism.zero": 3, "backend.deepspeed.hpz": 2, "parallelism.tp": 2},
    "deepspeed.quantized": {"parallelism.zero": 1, "backend.deepspeed.quantized_gradients": True},
    "deepspeed.bf16_states": {"backend.deepspeed.bf16_states": True, "training.precision": "fp16"},
    "deepspeed.bf16_states_of_sums": {
        "backend.deepspeed.bf16_states": True,
        "parallelism.zero": 1,
        "training.grad_reduce": "fp32",
    },
    "deepspeed.tiled_loss": {f"{TILES}.loss": 4, "model": MIXTRAL},
    "deepspeed.tiled_mlp": {f"{TILES}.mlp": 4, "model": MIXTRAL},
    "deepspeed.tiles": {f"{TILES}.loss": 1024},
    "deepspeed.sequence_exchange": {"parallelism.cp": 2, "parallelism.cp_comm": "all_gather"},
    "deepspeed.zenflow": {
        f"{OFFLOAD}.device": "cpu",
        "backend.deepspeed.zenflow.topk": 0.1,
        "training.global_batch": 16,
    },
    "deepspeed.super_offload": {
        "parallelism.zero": 2,
        f"{OFFLOAD}.device": "cpu",
        "backend.deepspeed.super_offload": True,
    },
    "deepspeed.deep_compile": {f"{COMPILE}.enabled": True, "parallelism.cp": 2},
    "deepspeed.deep_compile_offload": {f"{COMPILE}.enabled": True, f"{COMPILE}.offload": "activations"},
    "deepspeed.deep_compile_tiles": {f"{COMPILE}.enabled": True, f"{TILES}.loss": 4},
    "deepspeed.deepep": {"model": MIXTRAL, "backend.deepspeed.moe_dispatcher": "deepep"},
    "deepspeed.recompute": {"parallelism.recompute": "selective"},
    "deepspeed.entry": {"launch": Launch(entry="pretrain_gpt.py")},
    "deepspeed.qk_clip": {"training.optimizer.name": "muon", "training.optimizer.qk_clip": 100.0},
    "deepspeed.autocast": {AUTOCAST: "bf16"},
    "deepspeed.autocast_quantized": {
        AUTOCAST: "bf16",
        "backend.deepspeed.quantized_weights": True,
        "parallelism.zero": 3,
        "training.precision": "fp32",
    },
    "deepspeed.extra": {"backend.deepspeed.extra": {"zero_optimisation": {}}},
}
"""For each rule a run that breaks it, and what is accepted or breaks late without it."""


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_each_trap_is_refused_by_name(rule: str) -> None:
    described = deepspeed(changes=TRAPS[rule])
    assert rule in [problem.rule for problem in refusals(described, "deepspeed")]


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_each_repair_mends_its_trap(rule: str) -> None:
    described = deepspeed(changes=TRAPS[rule])
    problems = {problem.rule: problem for problem in refusals(described, "deepspeed")}
    for repair in problems[rule].repairs:
        mended = described
        for path, value in repair.items():
            mended = override(mended, path, value)
        assert rule not in [problem.rule for problem in refusals(mended, "deepspeed")], repair


def test_one_line_each() -> None:
    for rule, changes in TRAPS.items():
        for problem in refusals(deepspeed(changes=changes), "deepspeed"):
            assert "\n" not in str(problem), rule


def test_a_path_in_extra_is_named_once() -> None:
    described = deepspeed(changes={"backend.deepspeed.extra": {"scheduler": {"type": "WarmupLR"}}})
    (problem,) = refusals(described, "deepspeed")
    assert str(problem).count("backend.deepspeed.extra") == 2, "the path, and the repair"


def test_ramps_and_every_schedule_are_accepted() -> None:
    """DeepSpeed has none of them; the program on the nodes does."""
    for style in ("constant", "linear", "cosine", "wsd", "inverse_sqrt"):
        resolve(deepspeed(changes={"training.schedule.style": style}))


TYPOS: Mapping[str, tuple[dict[str, Any], str]] = {
    "gradient_acumulation_steps": ({"gradient_acumulation_steps": 4}, "gradient_accumulation_steps"),
    "zero_optimisation": ({"zero_optimisation": {"stage": 3}}, "zero_optimization"),
    "stgae": ({"zero_optimization": {"stgae": 3}}, "stage"),
    "partitioned_activations": (
        {"activation_checkpointing": {"partitioned_activations": True}},
        "parallelism.recompute",  # the section would be inert as well
    ),
    "enable": ({"flops_profiler": {"enable": True}}, "enabled"),
    "grad_acum_dtype": ({"data_types": {"grad_acum_dtype": "fp32"}}, "grad_accum_dtype"),
    "dype": ({"torch_autocast": {"dype": "x"}}, "did you mean dtype?"),
    "load_univ": ({"checkpoint": {"load_univ": True}}, "load_universal"),
    "autoep_sise": ({"expert_parallel": {"autoep_sise": 2}}, "autoep_size"),
    "parms": ({"optimizer": {"type": "AdamW", "parms": {"lr": 1}}}, "training.optimizer"),
    "typ": ({"scheduler": {"typ": "x"}}, "training.schedule"),
    "blocksize": ({"aio": {"blocksize": 1}}, "block_size"),
    "throughputt": ({"timers": {"throughputt": {}}}, "throughput"),
}


@pytest.mark.parametrize("typo", TYPOS)
def test_typos_are_named_with_what_was_meant(typo: str) -> None:
    extra, meant = TYPOS[typo]
    (problem,) = check_extra(extra)
    assert meant in problem.message


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"elasticity": {}}, "was removed"),
        ({"zero_optimization": {"mics_shard_size": 8}}, "was removed"),
        ({"train_batch_size": 8}, "set training.global_batch"),
        ({"fp16": {"enabled": True}}, "set training.precision"),
        ({"zero_optimization": {"round_robin_gradients": "auto"}}, "'auto' is a word of Hugging Face's Trainer"),
        ({"zero_optimization": {"round_robin_gradients": "yes"}}, "expected true or false"),
        ({"zero_optimization": {"offload_optimizer": None}}, "expected a mapping"),
        ({"flops_profiler": None}, "expected a mapping"),
        ({"aio": {"queue_depth": True}}, "expected a whole number"),
        ({"tensor_parallel": {"preset_model": "lama"}}, "expected one of llama"),
        ({"tensor_parallel": {"dtype": "bf16"}}, "no JSON value is valid"),
        ({"disable_allgather": True}, "never looks at it"),
        ({"torch_autocast": {"enabled": True}}, "set backend.deepspeed.autocast"),
        ({"checkpoint": {"parallel_write": {"pipeline_stage": True}}}, "there are none here"),
        ({"datastates_ckpt": {}}, "training.logging.async_save"),
        ({"data_efficiency": {"enabled": True}}, "random-LTD"),
        ({"compile": {"passes": ["autosp"]}}, "which we have not run"),
    ],
)
def test_what_else_is_wrong_with_extra(extra: dict[str, Any], said: str) -> None:
    (problem,) = check_extra(extra)
    assert said in problem.message


def test_a_stage_3_key_means_nothing_below() -> None:
    extra = {"zero_optimization": {"stage3_gather_16bit_weights_on_model_save": True}}
    assert check_extra(extra, 3) == []
    assert "means nothing at ZeRO stage 2" in check_extra(extra, 2)[0].message


def test_good_extra_passes() -> None:
    extra = {
        "wall_clock_breakdown": True,
        "comms_logger": {"enabled": True, "prof_ops": []},
        "zero_optimization": {"round_robin_gradients": True, "offload_optimizer": {"buffer_count": 5}},
        "checkpoint": {"tag_validation": "Fail"},
        "fp16": {"loss_scale_window": 500},
    }
    assert check_extra(extra) == []


def test_every_key_has_a_type_or_a_section() -> None:
    assert all(isinstance(kind, (type, tuple, Mapping)) for kind in KEYS.values())
