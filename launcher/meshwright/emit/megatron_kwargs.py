"""Plan -> keyword arguments for those who build Megatron-core's configuration objects themselves.

Types are JSON's: a dtype is its name in torch, an activation its name; ``verify`` and ``train`` make objects of them.
Fields whose default differs between the command line and the dataclass are set here, so that both ways of starting give
the same run.
"""

from __future__ import annotations

from typing import Any

from meshwright.emit.megatron import distributes, shards, uses_fsdp
from meshwright.emit.megatron_extra import overlaid
from meshwright.emit.megatron_files import precision_recipe
from meshwright.emit.megatron_groups import group_kwargs
from meshwright.emit.megatron_hybrid import hybrid, hybrid_pattern
from meshwright.emit.megatron_kwargs_model import layers, sizes
from meshwright.emit.megatron_techniques import technique_flags
from meshwright.layout.plan import Plan
from meshwright.model.megatron_classes import turns_at_once
from meshwright.spec.parallelism import PipelineSplit
from meshwright.spec.training import FP8_RECIPES

__all__ = ["kwargs"]

Kwargs = dict[str, Any]


def kwargs(plan: Plan) -> dict[str, Kwargs]:
    """Keyword arguments by the name of what takes them, those that are passed through included."""
    ours = {
        "MLATransformerConfig" if plan.spec.model.mla else "TransformerConfig": _transformer(plan),
        "DistributedDataParallelConfig": _data_parallel(plan),
        "OptimizerConfig": _optimizer(plan),
        "initialize_model_parallel": _process_groups(plan),
        **({"HybridModel": {"hybrid_layer_pattern": hybrid_pattern(plan)}} if hybrid(plan) else {}),
    }
    return overlaid(ours, (*technique_flags(plan), *plan.spec.backend.megatron.extra))


def _transformer(plan: Plan) -> Kwargs:
    return {
        **sizes(plan),
        **_layout(plan),
        **_precision(plan),
        **_recompute(plan),
        **_kernels(plan),
        **layers(plan),
        **_clipped(plan.spec.training.optimizer.qk_clip),
        **({"quant_recipe": recipe} if (recipe := precision_recipe(plan)) else {}),
    }


def _clipped(most: float | None) -> Kwargs:
    """Attention's logits, by weights scaled down after a step."""
    return {} if most is None else {"qk_clip": True, "qk_clip_threshold": most}


def _layout(plan: Plan) -> Kwargs:
    grid, p = plan.grid, plan.spec.parallelism
    division = PipelineSplit() if hybrid(plan) else p.pipeline_split  # of which HybridModel's pattern speaks
    interleaved, etp = p.vpp > 1, grid.etp if plan.spec.model.moe else grid.tp
    return {
        "tensor_model_parallel_size": grid.tp,
        "sequence_parallel": p.sp,
        "pipeline_model_parallel_size": grid.pp,
        "virtual_pipeline_model_parallel_size": p.vpp if interleaved else None,
        "pipeline_model_parallel_layout": division.layout,
        "num_layers_in_first_pipeline_stage": division.first,
        "num_layers_in_last_pipeline_stage": division.last,
        "account_for_embedding_in_pipeline_split": division.embedding,
        "account_for_loss_in_pipeline_split": division.loss,
        "microbatch_group_size_per_vp_stage": p.microbatch_group,
        "overlap_p2p_comm": interleaved and p.overlap_p2p,
        "batch_p2p_comm": not (interleaved and p.overlap_p2p),
        "context_parallel_size": grid.cp,
        "cp_comm_type": p.cp_comm,
        "hierarchical_context_parallel_sizes": list(p.cp_levels) or None,
        "expert_model_parallel_size": grid.ep,
        "expert_tensor_parallel_size": etp,
        "tensor_parallel_num_weight_shards": grid.tp * grid.gtp,
        "expert_tensor_parallel_num_weight_shards": etp * grid.egtp,
        "tp_comm_overlap": p.overlap_tp,
        "overlap_moe_expert_parallel_comm": p.overlap_ep,
    }


_STATES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "uint8"}
_DTYPES = {"fp32": "float32", "fp16": "float16"}


def _precision(plan: Plan) -> Kwargs:
    kind = plan.spec.training.precision
    dtype = _DTYPES.get(kind, "bfloat16")
    fine = kind in ("fp8_blockwise", "mxfp8")
    eight = {"fp8": "e4m3" if fine else "hybrid", "fp8_recipe": FP8_RECIPES[kind]} if kind in FP8_RECIPES else {}
    four = {"fp4": "e2m1", "fp4_recipe": "nvfp4"} if kind == "nvfp4" else {}
    return {
        "fp16": kind == "fp16",
        "bf16": dtype == "bfloat16",
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        **eight,
        **four,
    }


def _recompute(plan: Plan) -> Kwargs:
    p = plan.spec.parallelism
    if p.recompute == "none":
        return {}
    return {
        "recompute_granularity": p.recompute,
        "recompute_method": p.recompute_method,
        "recompute_num_layers": p.recompute_layers,
        "recompute_modules": list(p.recompute_modules) if p.recompute_modules else None,
    }


def _kernels(plan: Plan) -> Kwargs:
    """The command line's defaults where the dataclass has others (megatron/training/argument_utils.py)."""
    model, megatron = plan.spec.model, plan.spec.backend.megatron
    return {
        "transformer_impl": megatron.transformer,
        "attention_backend": megatron.attention,
        "cross_entropy_loss_fusion": megatron.cross_entropy_fusion,
        "gradient_accumulation_fusion": megatron.gradient_accumulation_fusion and not uses_fsdp(plan),
        "masked_softmax_fusion": True,
        "bias_activation_fusion": model.activation == "swiglu"
        or (model.activation == "gelu_tanh" and model.linear_bias),
        "bias_dropout_fusion": True,
        "apply_rope_fusion": model.positions == "rope" and turns_at_once(model),
        "attention_softmax_in_fp32": False,
        "persist_layer_norm": True,
        "deallocate_pipeline_outputs": True,
    }


def _data_parallel(plan: Plan) -> Kwargs:
    p, megatron = plan.spec.parallelism, plan.spec.backend.megatron
    fsdp = uses_fsdp(plan) and megatron.fsdp == "megatron"
    return {
        "grad_reduce_in_fp32": plan.spec.training.grad_reduce == "fp32" and plan.spec.training.precision != "fp32",
        "overlap_grad_reduce": p.overlap_grad_reduce and not (uses_fsdp(plan) and not fsdp),
        "overlap_param_gather": p.overlap_param_gather and p.overlap_grad_reduce and shards(plan),
        "use_distributed_optimizer": distributes(plan),
        "num_distributed_optimizer_instances": p.optimizer_instances,
        "use_megatron_fsdp": fsdp,
        **({"data_parallel_sharding_strategy": "optim_grads" if p.zero == 2 else "optim_grads_params"} if fsdp else {}),
    }


def _optimizer(plan: Plan) -> Kwargs:
    optimizer, megatron = plan.spec.training.optimizer, plan.spec.backend.megatron
    kind = plan.spec.training.precision
    return {
        "optimizer": {"adamw": "adam"}.get(optimizer.name, optimizer.name),
        "lr": optimizer.lr,
        "min_lr": plan.spec.training.schedule.min_lr,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "adam_eps": optimizer.eps,
        **({f"{optimizer.name}_momentum": optimizer.momentum} if optimizer.name in ("sgd", "muon") else {}),
        "weight_decay": optimizer.weight_decay,
        "clip_grad": optimizer.clip,
        "fp16": kind == "fp16",
        "bf16": kind not in ("fp16", "fp32"),
        "params_dtype": _DTYPES.get(kind, "bfloat16"),
        "use_distributed_optimizer": distributes(plan),
        **({"use_layer_wise_distributed_optimizer": True} if shards(plan) and not distributes(plan) else {}),
        "use_precision_aware_optimizer": megatron.precision_aware_optimizer,
        "exp_avg_dtype": _STATES[megatron.optimizer_moments],
        "exp_avg_sq_dtype": _STATES[megatron.optimizer_moments],
        "main_params_dtype": _STATES[megatron.optimizer_master],
        "main_grads_dtype": _STATES[megatron.optimizer_gradients],
    }


def _process_groups(plan: Plan) -> Kwargs:
    grid = plan.grid
    return {
        "tensor_model_parallel_size": grid.tp,
        "pipeline_model_parallel_size": grid.pp,
        "virtual_pipeline_model_parallel_size": plan.spec.parallelism.vpp if plan.spec.parallelism.vpp > 1 else None,
        "context_parallel_size": grid.cp,
        "hierarchical_context_parallel_sizes": list(plan.spec.parallelism.cp_levels) or None,
        "expert_model_parallel_size": grid.ep,
        "expert_tensor_parallel_size": grid.etp if plan.spec.model.moe else grid.tp,
        "gtp_remat_size": grid.gtp,
        "expert_gtp_remat_size": grid.egtp,
        "num_distributed_optimizer_instances": plan.spec.parallelism.optimizer_instances,
        "order": grid.order,
        **group_kwargs(plan),
    }
