"""``backend.deepspeed.extra``: what is merged into DeepSpeed's JSON may add to the plan, never contradict or miss.

Places: DeepSpeed 0.19.8, below ``deepspeed/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from meshwright.errors import Problem
from meshwright.rules.deepspeed_keys import KEYS

__all__ = ["CHOICES", "DECIDED", "INERT", "REMOVED", "check_extra", "cut_by_extra"]

REMOVED = frozenset(
    {
        *("nebula", "compression_training", "amp", "quantize_training", "sparse_gradients", "eigenvalue"),
        *("sparse_attention", "elasticity", "graph_harvesting", "curriculum_learning", "progressive_layer_drop"),
        *("zero_optimization.mics_shard_size", "zero_optimization.mics_hierarchical_params_gather"),
        "zero_optimization.zeropp_loco_param",
    }
)
"""DeepSpeed names these and stops (runtime/config.py:81-141)."""

DECIDED: Mapping[str, str] = {
    "train_batch_size": "training.global_batch",
    "train_micro_batch_size_per_gpu": "training.micro_batch",
    "gradient_accumulation_steps": "training.microbatches",
    "gradient_clipping": "training.optimizer.clip",
    "steps_per_print": "training.logging.interval",
    "communication_data_type": "training.grad_reduce",
    "data_types.grad_accum_dtype": "training.grad_reduce",
    "data_types.param_dtype": "training.precision",
    "bf16.enabled": "training.precision",
    "bf16.bf16_master_weights_and_grads": "backend.deepspeed.bf16_states",
    "bf16.bf16_optimizer_states": "backend.deepspeed.bf16_states",
    "fp16.enabled": "training.precision",
    "optimizer": "training.optimizer",
    "scheduler": "training.schedule",
    "sequence_parallel_size": "parallelism.cp",
    "data_parallel_size": "parallelism.dp",
    "tensor_parallel.autotp_size": "parallelism.tp",
    "tensor_parallel.tp": "parallelism.tp",
    "expert_parallel.enabled": "parallelism.ep",
    "expert_parallel.autoep_size": "parallelism.ep",
    "expert_parallel.expert_tensor_parallel_size": "parallelism.etp",
    "expert_parallel.preset_model": "model.transformers",
    "expert_parallel.top_k": "model.moe.topk",
    "expert_parallel.route_norm": "model.moe.normalize_topk",
    "expert_parallel.routed_scaling_factor": "model.moe.scaling",
    "expert_parallel.comm_backend": "backend.deepspeed.moe_dispatcher",
    "expert_parallel.comm_num_sm": "backend.deepspeed.moe_dispatcher_sms",
    "expert_parallel.comm_max_tokens_per_rank": "training.micro_batch",
    "compile.deepcompile": "backend.deepspeed.deep_compile.enabled",
    "compile.offload_activation": "backend.deepspeed.deep_compile.offload",
    "compile.offload_opt_states": "backend.deepspeed.deep_compile.offload",
    "zero_optimization.zenflow.topk_ratio": "backend.deepspeed.zenflow.topk",
    "zero_optimization.zenflow.select_interval": "backend.deepspeed.zenflow.select_interval",
    "zero_optimization.zenflow.select_strategy": "backend.deepspeed.zenflow.select_interval",
    "zero_optimization.zenflow.update_interval": "backend.deepspeed.zenflow.update_interval",
    "zero_optimization.zenflow.overlap_step": "backend.deepspeed.zenflow.overlap",
    "zero_optimization.zenflow.full_warm_up_rounds": "backend.deepspeed.zenflow.warmup",
    "zero_optimization.offload_optimizer.super_offload": "backend.deepspeed.super_offload",
    "zero_optimization.offload_optimizer.cpuadam_cores_perc": "backend.deepspeed.super_offload_cores",
    "torch_autocast.enabled": "backend.deepspeed.autocast",
    "torch_autocast.dtype": "backend.deepspeed.autocast",
    "tensor_parallel.vocab_parallel_lm_head": "backend.deepspeed.autotp.vocabulary",
    "tensor_parallel.tp_overlap_comm": "backend.deepspeed.autotp.overlap",
    "checkpoint.writer.type": "backend.deepspeed.checkpoint.writer",
    "checkpoint.writer.decoupled": "training.logging.async_save",
    "checkpoint.use_node_local_storage": "backend.deepspeed.checkpoint.node_local",
    "checkpoint.load_universal": "backend.deepspeed.checkpoint.load_universal",
    "pipeline": "parallelism.pp",
    "activation_checkpointing": "parallelism.recompute",
    "tensorboard.enabled": "training.logging.tensorboard",
    "tensorboard.output_path": "training.logging.tensorboard",
    "wandb.enabled": "training.logging.wandb_project",
    "wandb.project": "training.logging.wandb_project",
    "zero_optimization.stage": "parallelism.zero",
    "zero_optimization.overlap_comm": "parallelism.overlap_grad_reduce",
    "zero_optimization.reduce_bucket_size": "backend.deepspeed.reduce_bucket",
    "zero_optimization.allgather_bucket_size": "backend.deepspeed.allgather_bucket",
    "zero_optimization.stage3_prefetch_bucket_size": "backend.deepspeed.prefetch_bucket",
    "zero_optimization.stage3_param_persistence_threshold": "backend.deepspeed.persistence_threshold",
    "zero_optimization.stage3_max_live_parameters": "backend.deepspeed.max_live_parameters",
    "zero_optimization.stage3_max_reuse_distance": "backend.deepspeed.max_reuse_distance",
    "zero_optimization.sub_group_size": "backend.deepspeed.sub_group_size",
    "zero_optimization.zero_hpz_partition_size": "backend.deepspeed.hpz",
    "zero_optimization.zero_quantized_weights": "backend.deepspeed.quantized_weights",
    "zero_optimization.zero_quantized_gradients": "backend.deepspeed.quantized_gradients",
    "zero_optimization.cpu_offload": "backend.deepspeed.offload_optimizer.device",
    "zero_optimization.cpu_offload_param": "backend.deepspeed.offload_param.device",
    "zero_optimization.cpu_offload_use_pin_memory": "backend.deepspeed.offload_optimizer.pin_memory",
    "zero_optimization.offload_optimizer.device": "backend.deepspeed.offload_optimizer.device",
    "zero_optimization.offload_optimizer.nvme_path": "backend.deepspeed.offload_optimizer.nvme_path",
    "zero_optimization.offload_optimizer.pin_memory": "backend.deepspeed.offload_optimizer.pin_memory",
    "zero_optimization.offload_optimizer.ratio": "backend.deepspeed.offload_optimizer.ratio",
    "zero_optimization.offload_param.device": "backend.deepspeed.offload_param.device",
    "zero_optimization.offload_param.nvme_path": "backend.deepspeed.offload_param.nvme_path",
    "zero_optimization.offload_param.pin_memory": "backend.deepspeed.offload_param.pin_memory",
}
"""Keys, or whole sections, that the plan fills in, and the key of ours that decides."""

INERT: Mapping[str, str] = {
    "disable_allgather": "DeepSpeed parses it and never looks at it",
    "zero_optimization.allgather_partitions": "DeepSpeed parses it and never looks at it",
    "zero_optimization.legacy_stage1": "DeepSpeed stops at it (runtime/engine.py:2651)",
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": "deprecated; write "
    "stage3_gather_16bit_weights_on_model_save",
    "tensor_parallel.dtype": "no JSON value is valid (runtime/tensor_parallel/config.py:40)",
    "expert_parallel.load_balance_coeff": "DeepSpeed stops at it (module_inject/auto_ep_presets/base.py:20)",
    "checkpoint.parallel_write": "stages of a pipeline write so, and there are none here",
    "compile.passes": "of autosp and autotp, which we have not run; z1 and z3 are chosen by parallelism.zero",
    "datastates_ckpt": "it needs the DataStates engine, which no package index has; "
    "training.logging.async_save with backend.deepspeed.checkpoint.writer writes while training goes on",
    "data_efficiency": "random-LTD and curricula change modules and data in the training program; ours calls neither",
    "hybrid_engine": "it serves reinforcement learning, not pre-training",
    "weight_quantization": "it serves inference",
    "autotuning": "it belongs to DeepSpeed's own launcher",
}
"""Keys that would do nothing, or stop the run."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "tensor_parallel.preset_model": ("llama", "bloom", "chatglm", "mixtral", "deepseek_v2", "qwen2", "phi3"),
    "gradient_allreduce_op": ("mean", "sum"),
    "seq_parallel_communication_data_type": ("fp16", "bf16", "fp32"),
    "data_types.buffer_dtype": ("fp32", "fp16", "bf16"),
    "log_level": ("debug", "info", "warning", "error", "critical"),
}
"""Words DeepSpeed knows; it ignores or stumbles over all others (autotp_config.py:558, utils/logging.py:188)."""


def cut_by_extra(extra: Mapping[str, Any]) -> bool:
    """Whether ``extra`` says which matrices AutoTP cuts, instead of transformers' plan of the model."""
    section = extra.get("tensor_parallel")
    return isinstance(section, Mapping) and bool({"preset_model", "partition_config"} & section.keys())


def check_extra(extra: Mapping[str, Any], stage: int = 3) -> list[Problem]:
    """What is wrong with keys merged into the JSON of a run at ZeRO ``stage``; DeepSpeed itself is not asked."""
    return list(_section(extra, KEYS, "", stage))


def _section(values: Mapping[str, Any], known: Mapping[str, Any], parent: str, stage: int) -> Iterator[Problem]:
    for name, value in values.items():
        path = f"{parent}{name}"
        text = _unfit(path, str(name), known, stage)
        if text:
            yield _problem(path, text)
        elif isinstance(known[name], Mapping) and isinstance(value, Mapping):
            yield from _section(value, known[name], f"{path}.", stage)
        else:
            yield from (_problem(path, wrong) for wrong in [_wrong_value(path, value, known[name])] if wrong)


def _unfit(path: str, name: str, known: Mapping[str, Any], stage: int) -> str:
    """Why a key is not for the user to set, whatever its value."""
    if path in REMOVED:
        return "was removed from DeepSpeed, which stops at it (runtime/config.py:136)"
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"
        return f"DeepSpeed reads no such key and would not say so; {hint}"
    if path in DECIDED:
        return f"the plan decides it; set {DECIDED[path]}"
    if path in INERT:
        return INERT[path]
    if name.startswith("stage3_") and stage < 3:
        return f"means nothing at ZeRO stage {stage}"
    return ""


def _wrong_value(path: str, value: Any, kind: Any) -> str:
    if value == "auto" and path not in _AUTO:
        return "'auto' is a word of Hugging Face's Trainer; DeepSpeed would take its default. Give a value"
    kinds = (dict,) if isinstance(kind, Mapping) else kind if isinstance(kind, tuple) else (kind,)
    if value is None or not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        return f"expected {' or '.join(_NAMES[k] for k in kinds)}, got {value!r}"
    if path in CHOICES and value not in CHOICES[path]:
        return f"expected one of {', '.join(CHOICES[path])}, got {value!r}"
    return ""


def _problem(path: str, text: str) -> Problem:
    return Problem(f"backend.deepspeed.extra.{path}", text, "deepspeed.extra")


_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a mapping",
}
_AUTO = ("data_types.keep_in_fp32_modules", "expert_parallel.top_k", "expert_parallel.score_apply")
