"""DeepSpeed's own parser and engine on what we emit; what must fail fails. Everything runs in forks of one process."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from builders import small_model
from meshwright.emit.deepspeed import config
from meshwright.emit.huggingface import config as architecture
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.rules.deepspeed_extra import REMOVED
from meshwright.rules.deepspeed_keys import KEYS
from meshwright.spec.model import Moe
from meshwright.spec.techniques import AutoTp, DeepSpeedCheckpoint
from meshwright.verify.pool import Crash, fork_map
from test_emit_deepspeed import deepspeed
from test_rules_deepspeed import TYPOS

pytest.importorskip("deepspeed")
pytest.importorskip("transformers")

MIXTRAL = small_model(moe=Moe(experts=8, topk=2, ffn=256), transformers="mixtral")
RUNS: Mapping[str, dict[str, Any]] = {
    "tensor parallel on 16,384 ranks": {"gpus": 16384, "tp": 4, "changes": {"training.global_batch": 8192}},
    "context parallel at stage 3": {"gpus": 64, "cp": 4, "zero": 3},
    "experts at stage 3": {"gpus": 64, "ep": 8, "zero": 3, "changes": {"model": MIXTRAL}},
    "fp32 without sharding": {"zero": 0, "changes": {"training.precision": "fp32"}},
    "offload and a secondary partition": {
        "zero": 3,
        "changes": {"backend.deepspeed.offload_optimizer.device": "cpu", "backend.deepspeed.hpz": 4},
    },
    "states in bf16": {"zero": 2, "changes": {"backend.deepspeed.bf16_states": True, "training.grad_reduce": "bf16"}},
    "autocast of fp32 weights": {
        "zero": 2,
        "changes": {
            "training.precision": "fp32",
            "backend.deepspeed.autocast": "bf16",
        },
    },
    "logits cut by the vocabulary": {
        "tp": 2,
        "zero": 3,
        "changes": {"backend.deepspeed.autotp": AutoTp(vocabulary=True, overlap=True)},
    },
    "a process that writes": {
        "zero": 3,
        "changes": {
            "training.logging.async_save": True,
            "backend.deepspeed.checkpoint": DeepSpeedCheckpoint(writer="python", node_local=True, load_universal=True),
            "training.logging.load": "/checkpoints",
        },
    },
}
NEEDS_CUDA: Mapping[str, dict[str, Any]] = {
    "no ZenFlow": {"backend.deepspeed.zenflow.topk": 0.1, "training.global_batch": 8},
    "plain offload for SuperOffload": {"backend.deepspeed.super_offload": True},
}


@pytest.fixture(scope="module")
def verify() -> Any:
    from meshwright.verify import deepspeed as module

    module.warm()
    return module


def in_forks(work: Any, items: list[Any]) -> list[Any]:
    results = fork_map(work, items)
    assert not [result for result in results if isinstance(result, Crash)], results
    return results


def test_runs_pass_every_check(verify: Any) -> None:
    plans = [resolve(deepspeed(**run)) for run in RUNS.values()]
    checks = in_forks(verify.check, [(name, plan) for plan in plans for name in verify.CHECKS])
    assert [check.details for check in checks if not check.passed] == []


PADDED = {"glm4": "glm4_9b", "phi3": "phi3_mini_3_8b", "smollm3": "smollm3_3b"}
"""Architectures whose class pads with a token that a small vocabulary does not have, and a model of each."""


def test_no_token_is_padding(verify: Any) -> None:
    models = [replace(load([f"model={name}"]).stages[0].model, layers=2) for name in PADDED.values()]
    plans = [resolve(deepspeed(zero=1, changes={"model": model})) for model in models]
    assert all(config["pad_token_id"] is None for config in map(architecture, models))
    checks = in_forks(verify.check, [("built", plan) for plan in plans])
    assert [check.details for check in checks if not check.passed] == []


@pytest.mark.parametrize("said", NEEDS_CUDA)
def test_offload_that_needs_cuda_is_judged_as_far_as_a_cpu_goes(verify: Any, said: str) -> None:
    changes = {"backend.deepspeed.offload_optimizer.device": "cpu", **NEEDS_CUDA[said]}
    plan = resolve(deepspeed(zero=2 + ("Super" in said), changes=changes))
    checks = in_forks(verify.check, [(name, plan) for name in verify.CHECKS])
    assert [check.details for check in checks if not check.passed] == []
    assert any(text.startswith(said) for check in checks for text in check.substitutions)


def test_what_extra_cuts_is_not_held_against_the_plans_count(verify: Any) -> None:
    """DeepSpeed's own preset leaves the head and the embedding whole, which transformers' plan of a Llama cuts."""
    preset = {"tensor_parallel": {"preset_model": "llama"}}
    plan = resolve(deepspeed(tp=2, zero=1, changes={"backend.deepspeed.extra": preset}))
    parsed, built = in_forks(verify.check, [("parsed", plan), ("built", plan)])
    assert (parsed.passed, built.passed) == (True, True), (parsed.details, built.details)
    assert "parameters by backend.deepspeed.extra.tensor_parallel, not compared with the plan's" in built.substitutions


def test_what_stood_in_is_said(verify: Any) -> None:
    plan = resolve(deepspeed(changes={"training.precision": "fp16"}))
    (check,) = in_forks(verify.check, [("built", plan)])
    assert any("bf16 for fp16" in text for text in check.substitutions)


@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_in_the_json_does_not_pass(verify: Any, typo: str) -> None:
    """The parser alone accepts most of them."""
    from meshwright.emit.deepspeed import merge

    plan = resolve(deepspeed())
    check = verify.parsed(plan, merge(config(plan), TYPOS[typo][0]))
    assert not check.passed
    assert typo in check.details


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train_micro_batch_size_per_gpu": 2}, "micro_batch: 2, the plan has 1"),
        ({"gradient_accumulation_steps": 3}, "accumulation: 3"),
        ({"zero_optimization": {"stage": 2}}, "stage: 2, the plan has 1"),
        ({"bf16": {"enabled": False}}, "precision: 'fp32'"),
        ({"gradient_clipping": 0.5}, "clip: 0.5"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tp: 2, the plan has 1"),
        ({"sequence_parallel_size": 2}, "cp: 2, the plan has 1"),
        ({"zero_optimization": {"stage": 4}}, "Input should be 0, 1, 2, 3"),
        ({"fp16": {"enabled": True}}, "bfloat16 and fp16 modes cannot be simultaneously enabled"),
    ],
)
def test_values_that_are_not_the_plans_do_not_pass(verify: Any, change: dict[str, Any], named: str) -> None:
    plan = resolve(deepspeed())
    check = verify.parsed(plan, {**config(plan), **change})
    assert not check.passed
    assert named in check.details


def test_the_pinned_sections_are_what_is_installed(verify: Any) -> None:
    """Sections that pydantic declares."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    declared = {
        "zero_optimization": DeepSpeedZeroConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "tensor_parallel": TPTrainingConfig,
        "comms_logger": CommsLoggerConfig,
        "compile": CompileConfig,
        "tensorboard": TensorBoardConfig,
        "wandb": WandbConfig,
        "csv_monitor": CSVConfig,
        "comet": CometConfig,
    }
    for section, model in declared.items():
        assert set(KEYS[section]) == {f.alias or name for name, f in model.model_fields.items()}, section
    zero = KEYS["zero_optimization"]
    assert set(zero["offload_param"]) == set(DeepSpeedZeroOffloadParamConfig.model_fields)
    assert set(zero["offload_optimizer"]) == set(DeepSpeedZeroOffloadOptimizerConfig.model_fields)


def test_the_pinned_top_level_is_what_the_parser_reads(verify: Any) -> None:
    from meshwright.verify.recorder import Recorder

    read = _reads(Recorder({"train_micro_batch_size_per_gpu": 1}))
    elsewhere = {"sequence_parallel_size", "data_parallel_size"}  # read where there are ranks: config.py:468
    spellings = {"bfloat16"}
    top = {name for name in REMOVED if "." not in name}
    assert read - spellings == (set(KEYS) | top) - elsewhere


@pytest.mark.parametrize(
    "section", ["activation_checkpointing", "flops_profiler", "aio", "data_types", "torch_autocast", "checkpoint"]
)
def test_the_pinned_sections_without_a_schema_are_what_the_parser_reads(verify: Any, section: str) -> None:
    from meshwright.verify.recorder import Recorder

    filled = {"checkpoint": {"writer": {}, "parallel_write": {}}, "torch_autocast": {"enabled": True, "dtype": "bf16"}}
    recorder = Recorder({"train_micro_batch_size_per_gpu": 1, section: filled.get(section, {})})
    _reads(recorder)
    assert recorder[section].read == set(KEYS[section])


def test_the_pinned_expert_keys_are_what_the_parser_reads(verify: Any) -> None:
    import re

    from deepspeed.module_inject import auto_ep_config

    source = inspect.getsource(auto_ep_config.parse_autoep_config)
    assert set(re.findall(r'param_dict(?:\.get\(|\[)"(\w+)"', source)) | {"load_balance_coeff"} == set(
        KEYS["expert_parallel"]
    )


def _reads(recorder: Any) -> set[str]:
    from deepspeed.runtime.config import DeepSpeedConfig

    recorder.read.clear()
    DeepSpeedConfig(recorder)
    return set(recorder.read)
