"""Megatron-Bridge: recipes of precision by name, objects of Python as values, sections that say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import small_model, spec
from meshwright.emit.bridge import files
from meshwright.imports.check import checked
from meshwright.imports.found import Imported
from meshwright.imports.read import imported
from meshwright.layout.plan import Plan
from meshwright.model.user_buffers import presets
from meshwright.resolver import override, resolve
from meshwright.spec.techniques import ModulePrecision

TRAIN = "train: {micro_batch_size: 1, global_batch_size: 32, train_iters: 10}\n"


def read(text: str, folder: Path) -> Imported:
    path = folder / "run_config.yaml"
    path.write_text(TRAIN + text)
    return imported([path])


def plan_of(source: Imported, *words: str) -> Plan:
    result = checked(source, ("cluster=dgx_b200", "cluster.gpus=8", *words))
    assert result.plan is not None, [str(one.message) for one in result.said]
    return result.plan


SIXTEEN = {"param_gather": False, "first_layers_bf16": 0, "last_layers_bf16": 0, "reuse_gradient_buffer": False}
PRECISIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bf16_mixed": ("bf16", SIXTEEN),
    "bf16-mixed": ("bf16", SIXTEEN),
    "fp16_mixed": ("fp16", SIXTEEN),
    "bf16_with_fp8_delayed_scaling_mixed": ("fp8_delayed", {**SIXTEEN, "param_gather": True}),
    "bf16_with_mxfp8_mixed": ("mxfp8", {**SIXTEEN, "param_gather": True, "reuse_gradient_buffer": True}),
    "bf16_with_fp8_current_scaling_mixed": (
        "fp8_tensorwise",
        {**SIXTEEN, "param_gather": True, "first_layers_bf16": 1, "last_layers_bf16": 1},
    ),
    "bf16-with-fp8-subchannel-scaling-mixed": ("fp8_blockwise", SIXTEEN),
    "nanov2_bf16_with_fp8_current_scaling_mixed": (
        "fp8_blockwise",
        {**SIXTEEN, "param_gather": True, "first_layers_bf16": 2, "last_layers_bf16": 2},
    ),
    "bf16_with_nvfp4_mixed": ("nvfp4", {**SIXTEEN, "param_gather": True}),
    "nemotron_3_super_bf16_with_nvfp4_mixed": ("nvfp4", {**SIXTEEN, "param_gather": True, "last_layers_bf16": 14}),
}
"""By name: what Bridge's training/mixed_precision.py sets."""


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_recipe_of_precision_is_read_field_by_field(name: str, tmp_path: Path) -> None:
    source = read(f"model: {{seq_length: 4096, bf16: false, fp8: hybrid}}\nmixed_precision: {name}\n", tmp_path)
    precision, details = PRECISIONS[name]
    assert source.values["training.precision"] == precision
    assert {key: source.values[f"backend.megatron.quantization.{key}"] for key in details} == details
    assert [(one.fate, one.path) for one in source.found if one.key == "mixed_precision"] == [
        ("mapped", "training.precision")
    ]


def test_a_recipe_of_eight_bits_makes_a_plan(tmp_path: Path) -> None:
    source = read("model: {seq_length: 4096}\nmixed_precision: bf16_with_mxfp8_mixed\n", tmp_path)
    assert plan_of(source, "model=llama3_8b").spec.training.precision == "mxfp8"


def test_fields_of_precision_are_read(tmp_path: Path) -> None:
    fields = "bf16: true, fp8: hybrid, fp8_recipe: tensorwise, fp8_param: true, grad_reduce_in_fp32: false"
    source = read(f"model: {{seq_length: 4096}}\nmixed_precision: {{{fields}}}\n", tmp_path)
    assert source.values["training.precision"] == "fp8_tensorwise"
    assert source.values["training.grad_reduce"] == "bf16"
    assert source.values["backend.megatron.quantization.param_gather"] is True


def test_a_recipe_of_precision_that_is_not_known_is_named(tmp_path: Path) -> None:
    source = read("model: {seq_length: 4096}\nmixed_precision: bf16_with_int8_mixed\n", tmp_path)
    assert [one.rule for one in source.remarks] == ["bridge.precision"]


SAVED = """
_target_: megatron.bridge.training.config.ConfigContainer
model:
  _target_: megatron.bridge.models.llama.llama_provider.Llama31ModelProvider
  num_layers: 16
  hidden_size: 2048
  ffn_hidden_size: 8192
  num_attention_heads: 32
  num_query_groups: 8
  kv_channels: 64
  seq_length: 131072
  vocab_size: 128256
  position_embedding_type: rope
  rotary_base: 500000.0
  scale_factor: 32.0
  low_freq_factor: 1.0
  normalization: RMSNorm
  add_bias_linear: false
  hidden_dropout: 0.0
  attention_dropout: 0.0
  share_embeddings_and_output_weights: true
  gated_linear_unit: true
  activation_func: {_call_: false, _target_: torch.nn.functional.silu}
  attention_backend: {_args_: [5], _call_: true, _target_: megatron.core.transformer.enums.AttnBackend}
  init_method: {_args_: [], _partial_: true, _target_: torch.nn.init.normal_, mean: 0.0, std: 0.02}
  microbatch_group_size_per_vp_stage: 1
  overlap_p2p_comm: false
dataset: {sequence_length: 1024, mock: true}
ddp: {use_distributed_optimizer: true, overlap_param_gather: true, overlap_grad_reduce: true}
optimizer:
  lr: 3.0e-4
  weight_decay: 0.1
  overlap_param_gather: false
  exp_avg_dtype: {_call_: false, _target_: torch.float32}
scheduler: {lr_decay_iters: 10000, lr_warmup_iters: 2000, start_weight_decay: 0.033, end_weight_decay: 0.033}
mixed_precision: {_target_: megatron.bridge.training.mixed_precision.MixedPrecisionConfig, bf16: true}
straggler: null
"""
"""As a checkpoint keeps it beside its weights (training/utils/checkpoint_utils.py: run_config.yaml)."""


def test_the_run_that_a_checkpoint_of_bridge_keeps(tmp_path: Path) -> None:
    """From the log of a run of Llama 3.2 1B in NVIDIA's container nemo:25.09, whose model counts 1.24 billion."""
    source = read(SAVED, tmp_path)
    plan = plan_of(source)
    spec = plan.spec
    assert round(plan.total_parameters / 1e9, 2) == 1.24
    assert (plan.batch.sequence, spec.model.max_positions) == (1024, 131072)
    assert spec.training.optimizer.weight_decay == 0.033
    assert spec.parallelism.overlap_param_gather
    assert spec.model.activation == "swiglu"
    assert spec.model.rope.scaling is not None
    assert (spec.model.rope.scaling.kind, spec.model.rope.scaling.factor) == ("llama3", 32.0)
    assert spec.backend.megatron.attention == "auto"
    assert [one.rule for one in source.remarks] == ["bridge.sequence"]
    unknown = [one.key for one in source.found if "known here" in one.reason]
    assert unknown == []


def test_experts_that_are_padded_to_a_capacity_are_read(tmp_path: Path) -> None:
    said = "moe_expert_capacity_factor: 1.1, moe_pad_expert_input_to_capacity: true, moe_token_drop_policy: position"
    source = read(f"model: {{seq_length: 4096, num_moe_experts: 8, {said}}}\n", tmp_path)
    assert source.values["backend.megatron.experts.padded_to_capacity"] is True
    assert (source.values["model.moe.capacity_factor"], source.values["model.moe.drop_policy"]) == (1.1, "position")
    assert {one.fate for one in source.found if "capacity" in one.key or "drop" in one.key} == {"mapped"}


TABLE = "userbuffers_bf16_h100_h8192_tp4_mbs1_seqlen8192"
CUT = "tensor_model_parallel_size: 4, sequence_parallel: true, seq_length: 4096, tp_comm_overlap: true"


def of_classes(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """As Bridge's dataclasses are written (training/comm_overlap.py), whose pipelines hold a tuple for a switch."""
    place = "megatron.bridge.training.comm_overlap"
    words = {name: {"_target_": f"{place}.TPOverlapCfg", **one} for name, one in table.items()}
    for one in words.values():
        one |= {"fp8_buf": [False]} if one["method"] == "pipeline" else {}
    return {"_target_": f"{place}.TransformerLayerTPOverlapCfg", **words, "proj_wgrad": None}


@pytest.mark.parametrize("section", ["model", "comm_overlap"])
def test_a_table_of_nvidias_user_buffers_is_read_by_its_name(section: str, tmp_path: Path) -> None:
    table = {"tp_comm_overlap": True, "tp_comm_overlap_cfg": of_classes(presets()[TABLE])}
    model = yaml.safe_load(f"{{{CUT}}}")
    sections = {"model": {**model, **table}} if section == "model" else {"model": model, "comm_overlap": table}
    source = read(yaml.safe_dump(sections), tmp_path)
    assert source.values["backend.megatron.tp_overlap.preset"] == TABLE
    assert source.values["backend.megatron.tp_overlap.products"] == []
    assert [one.fate for one in source.found if one.key == f"{section}.tp_comm_overlap_cfg"] == ["mapped"]
    assert plan_of(source, "model=llama3_8b").spec.backend.megatron.tp_overlap.preset == TABLE


def test_another_table_is_read_product_by_product(tmp_path: Path) -> None:
    source = read(f"model: {{{CUT}, tp_comm_overlap_cfg: {{fc2_fprop: {{method: bulk, num_sm: 7}}}}}}\n", tmp_path)
    assert source.values["backend.megatron.tp_overlap.preset"] is None
    assert source.values["backend.megatron.tp_overlap.products"] == [{"name": "fc2_fprop", "method": "bulk", "sms": 7}]


def test_words_of_a_table_that_are_not_known_are_named(tmp_path: Path) -> None:
    source = read(f"model: {{{CUT}, tp_comm_overlap_cfg: {{fc2_fprop: {{use_ce: true}}}}}}\n", tmp_path)
    assert [one.rule for one in source.remarks] == ["megatron.file"]


def test_bridge_overlaps_nothing_without_sequence_parallelism(tmp_path: Path) -> None:
    """Its recipes for FSDP leave a table and the switch in comm_overlap, which setup turns off."""
    model = "model: {tensor_model_parallel_size: 1, seq_length: 4096}\n"
    table = yaml.safe_dump({"comm_overlap": {"tp_comm_overlap": True, "tp_comm_overlap_cfg": presets()[TABLE]}})
    source = read(model + table, tmp_path)
    assert source.values["parallelism.overlap_tp"] is False
    assert source.values["backend.megatron.tp_overlap.preset"] is None
    assert [one.reason for one in source.found if one.key == "comm_overlap.tp_comm_overlap_cfg"] == [
        "nothing overlaps: tp_comm_overlap is off"
    ]


PLACE = "megatron.core.quantization.quant_config"
RECIPE: dict[str, Any] = {
    "_target_": f"{PLACE}.RecipeConfig",
    "matchers": [
        {"_target_": f"{PLACE}.GlobMatcher", "pattern": pattern, "config_key": kind}
        for pattern, kind in (("*.linear_qkv", "bf16"), ("mtp.*", "bf16"), ("*mixer.out_proj", "mxfp8"))
    ],
    "config_dict": {
        kind: {"transformer_engine_config_type": "TEQuantizationParams", "training_recipe": fields}
        for kind, fields in (("bf16", {}), ("mxfp8", {"fp8_quantization_recipe": "mxfp8"}))
    },
}
"""As run_config.yaml has it (training/utils/config_utils.py), with rules of perf_recipes/nemotronh/te_quant.cfg."""


def test_which_module_has_which_precision_is_read(tmp_path: Path) -> None:
    source = read(yaml.safe_dump({"model": {"seq_length": 4096, "quant_recipe": RECIPE}}), tmp_path)
    assert source.values["backend.megatron.quantization.modules"] == [
        {"match": "*.linear_qkv", "precision": "bf16"},
        {"match": "mtp.*", "precision": "bf16"},
        {"match": "*mixer.out_proj", "precision": "mxfp8"},
    ]
    assert [(one.fate, one.path) for one in source.found if one.key == "model.quant_recipe"] == [
        ("mapped", "backend.megatron.quantization.modules")
    ]


def test_a_precision_of_evaluation_alone_is_named_not_read(tmp_path: Path) -> None:
    """DeepSeek-V4's recipe evaluates in bf16 (recipes/deepseek/h100/deepseek_v4.py:38), which no key here says."""
    kinds = {name: {**fields, "evaluation_recipe": {}} for name, fields in RECIPE["config_dict"].items()}
    source = read(
        yaml.safe_dump({"model": {"seq_length": 4096, "quant_recipe": {**RECIPE, "config_dict": kinds}}}), tmp_path
    )
    assert source.values["backend.megatron.quantization.modules"] == []
    assert [one.rule for one in source.remarks] == ["megatron.file"]


def test_what_is_exported_for_bridge_is_read_back(tmp_path: Path) -> None:
    rules = (ModulePrecision(match="*.linear_proj"), ModulePrecision(match="*.linear_fc1", precision="mxfp8"))
    changes = {
        "parallelism.tp": 2,
        "parallelism.sp": True,
        "parallelism.overlap_tp": True,
        "training.precision": "mxfp8",
        "cluster.accelerator.capability": "10.0",
        "backend.megatron.tp_overlap.preset": "userbuffers_fp8_b200_h8192_tp2_mbs1_seqlen8192",
        "backend.megatron.quantization.modules": rules,
    }
    base = spec(small_model(), 8, global_batch=16)
    for path, value in changes.items():
        base = override(base, path, value)
    base = replace(base, training=replace(base.training, steps=10))
    (tmp_path / "config.yaml").write_text(files(resolve(base, "bridge"))["config.yaml"])
    values = imported([tmp_path / "config.yaml"]).values
    assert values["backend.megatron.tp_overlap.preset"] == changes["backend.megatron.tp_overlap.preset"]
    assert values["backend.megatron.quantization.modules"] == [
        {"match": one.match, "precision": one.precision} for one in rules
    ]
