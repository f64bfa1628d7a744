"""Megatron-LM's arguments -> our ``parallelism`` and ``backend.megatron``: emit/megatron.py read backwards."""

from __future__ import annotations

from typing import Any

from meshwright.imports.megatron_arguments import Arguments
from meshwright.imports.megatron_mixers import hybrid_segments, split
from meshwright.layout.pipeline import parse_layout

__all__ = ["CARRIED", "PLAIN", "layout"]

Flat = dict[str, Any]

PLAIN = {
    "parallelism.tp": "tensor_model_parallel_size",
    "parallelism.pp": "pipeline_model_parallel_size",
    "parallelism.cp": "context_parallel_size",
    "parallelism.ep": "expert_model_parallel_size",
    "parallelism.optimizer_instances": "num_distributed_optimizer_instances",
    "parallelism.microbatch_group": "microbatch_group_size_per_vp_stage",
    "parallelism.overlap_tp": "tp_comm_overlap",
    "parallelism.overlap_ep": "overlap_moe_expert_parallel_comm",
    "parallelism.recompute_modules": "recompute_modules",
    "parallelism.pipeline_split.first": "decoder_first_pipeline_num_layers",
    "parallelism.pipeline_split.last": "decoder_last_pipeline_num_layers",
    "parallelism.pipeline_split.embedding": "account_for_embedding_in_pipeline_split",
    "parallelism.pipeline_split.loss": "account_for_loss_in_pipeline_split",
    "parallelism.pipeline_split.layout": "pipeline_model_parallel_layout",
    "backend.megatron.transformer": "transformer_impl",
    "backend.megatron.attention": "attention_backend",
    "backend.megatron.dsa_kernels": "dsa_kernel_backend",
    "backend.megatron.moe_permute_fusion": "moe_permute_fusion",
    "backend.megatron.moe_flex_backend": "moe_flex_dispatcher_backend",
    "backend.megatron.moe_router_fusion": "moe_router_fusion",
    "backend.megatron.moe_shared_expert_overlap": "moe_shared_expert_overlap",
    "backend.megatron.moe_rank_capacity": "moe_expert_rank_capacity_factor",
    "backend.megatron.moe_paged_stash": "moe_paged_stash",
    "backend.megatron.experts.balanced": "moe_router_force_load_balancing",
    "backend.megatron.experts.padded": "moe_router_padding_for_quantization",
    "backend.megatron.experts.padded_to_capacity": "moe_pad_expert_input_to_capacity",
    "backend.megatron.experts.interleave": "moe_mlp_glu_interleave_size",
    "backend.megatron.experts.priority_stream": "high_priority_a2a_comm_stream",
    "backend.megatron.experts.permute_in_dispatch": "moe_permute_fusion_into_hybridep",
    "backend.megatron.experts.preprocessing_sms": "moe_hybridep_num_sms_preprocessing",
    "backend.megatron.experts.wgrad_beside_dispatch": "overlap_dispatch_backward_with_experts_wgrad",
    "backend.megatron.experts.early_release": "ep_overlap_early_attn_memory_release",
    "backend.megatron.experts.stash_gpu": "moe_paged_stash_buffer_size_factor_cuda",
    "backend.megatron.experts.stash_host": "moe_paged_stash_buffer_size_factor_cpu",
    "backend.megatron.op_fuser": "use_transformer_engine_op_fuser",
    "backend.megatron.delay_wgrad": "delay_wgrad_compute",
    "backend.megatron.gather_with_step": "overlap_param_gather_with_optimizer_step",
    "backend.megatron.vocab_divisor": "make_vocab_size_divisible_by",
    "backend.megatron.cross_entropy_fusion": "cross_entropy_loss_fusion",
    "backend.megatron.precision_aware_optimizer": "use_precision_aware_optimizer",
}
"""One argument each, the same value."""

CARRIED = {
    "parallelism.sp": "sequence_parallel",
    "parallelism.vpp": (
        "num_virtual_stages_per_pipeline_rank num_layers_per_virtual_pipeline_stage "
        "virtual_pipeline_model_parallel_size"
    ),
    "parallelism.etp": "expert_tensor_parallel_size",
    "parallelism.pipeline_split": "pp_partition_method",
    "parallelism.gtp": "tensor_parallel_num_weight_shards",
    "parallelism.egtp": "expert_tensor_parallel_num_weight_shards",
    "parallelism.order": "use_tp_pp_dp_mapping",
    "parallelism.cp_comm": "cp_comm_type",
    "parallelism.cp_levels": "hierarchical_context_parallel_sizes",
    "parallelism.zero": (
        "use_distributed_optimizer use_megatron_fsdp use_torch_fsdp2 data_parallel_sharding_strategy "
        "torch_fsdp2_reshard_after_forward zero_stage"
    ),
    "parallelism.overlap_grad_reduce": "overlap_grad_reduce",
    "parallelism.overlap_param_gather": "overlap_param_gather",
    "parallelism.overlap_p2p": "overlap_p2p_comm",
    "parallelism.recompute": "recompute_granularity recompute_activations checkpoint_activations",
    "parallelism.recompute_method": "recompute_method",
    "parallelism.recompute_layers": "recompute_num_layers",
    "backend.megatron.moe_dispatcher": "moe_token_dispatcher_type",
    "backend.megatron.moe_grouped_gemm": "moe_grouped_gemm",
    "backend.megatron.checkpoint_format": "ckpt_format",
    "backend.megatron.gradient_accumulation_fusion": "gradient_accumulation_fusion",
    "backend.megatron.optimizer_moments": "exp_avg_dtype exp_avg_sq_dtype",
    "backend.megatron.spec": "spec",
    "cluster.gpus": "world_size",
}


def layout(a: Arguments) -> Flat:
    """Degrees, pipeline split, sharding, recomputation and Megatron's own options by dotted path."""
    return {
        **{path: a(name) for path, name in PLAIN.items()},
        "backend.name": "megatron",
        **_degrees(a),
        **_ends(a),
        **_sharding(a),
        **_recompute(a),
        **_options(a),
        **split(a),
    }


def _degrees(a: Arguments) -> Flat:
    """Without experts there is no grid of theirs; unset, their tensor degree is the dense one (arguments.py:570)."""
    dense = (a("num_experts") or 1) == 1
    expert_tensor = a("expert_tensor_parallel_size") or a("tensor_model_parallel_size")
    comm = a("cp_comm_type")
    return {
        "parallelism.sp": a("sequence_parallel") and a("tensor_model_parallel_size") > 1,
        "parallelism.vpp": chunks(a),
        "parallelism.etp": 1 if dense else expert_tensor,
        "parallelism.gtp": _parts(a("tensor_parallel_num_weight_shards"), a("tensor_model_parallel_size")),
        "parallelism.egtp": 1 if dense else _parts(a("expert_tensor_parallel_num_weight_shards"), expert_tensor),
        "parallelism.order": "tp-cp-ep-pp-dp" if a("use_tp_pp_dp_mapping") else "tp-cp-ep-dp-pp",
        "parallelism.cp_comm": comm[0] if isinstance(comm, list) and comm else comm,
        "parallelism.cp_levels": a("hierarchical_context_parallel_sizes") or [],
        "parallelism.overlap_p2p": a("overlap_p2p_comm"),
        "parallelism.microbatch_group": _group(a),
    }


def _group(a: Arguments) -> int | None:
    """Without chunks it says nothing; Megatron fills in the stages (core/model_parallel_config.py)."""
    group = a("microbatch_group_size_per_vp_stage")
    return None if chunks(a) == 1 and group == a("pipeline_model_parallel_size") else group


def _parts(shards: int | None, tensor: int) -> int:
    """Of a weight beyond tensor parallelism; all are counted together (core/model_parallel_config.py:41)."""
    return max(1, (shards or tensor) // tensor)


def _ends(a: Arguments) -> Flat:
    """DeepSpeed's ``type:transformer|embedding`` counts both embeddings as layers (bigscience's model/gpt_model.py)."""
    counted = "embedding" in str(a("pp_partition_method") or "")
    return {f"parallelism.pipeline_split.{end}": True for end in ("embedding", "loss") if counted}


def chunks(a: Arguments) -> int:
    """Model chunks a stage, as validate_args counts them (arguments.py:905-945); a rest is dropped by division."""
    pp, per_chunk = a("pipeline_model_parallel_size"), a("num_layers_per_virtual_pipeline_stage")
    if hybrid_segments(a):
        return max(1, hybrid_segments(a) // int(pp))
    if a("pipeline_model_parallel_layout"):
        return max(1, len(parse_layout(a("pipeline_model_parallel_layout"))) // int(pp))
    if per_chunk and a("num_layers"):
        ends = a("account_for_embedding_in_pipeline_split") + a("account_for_loss_in_pipeline_split")
        return max(1, int(a("num_layers") + ends) // int(pp) // int(per_chunk))
    stated = a("num_virtual_stages_per_pipeline_rank") or a("virtual_pipeline_model_parallel_size")
    return int(stated or 1)


_STAGES = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}


def _sharding(a: Arguments) -> Flat:
    """Overlaps that nothing is left for keep our default, so that an import of what we wrote changes nothing."""
    zero, fsdp = _stage(a)
    sharded = zero >= 1 and fsdp == "megatron"
    flat: Flat = {"parallelism.zero": zero, "backend.megatron.fsdp": fsdp}
    flat["parallelism.overlap_grad_reduce"] = a("overlap_grad_reduce") or (zero >= 2 and fsdp == "torch")
    flat["parallelism.overlap_param_gather"] = a("overlap_param_gather") if sharded else True
    return flat


def _stage(a: Arguments) -> tuple[int, str]:
    if a("use_torch_fsdp2"):
        return (3 if a("torch_fsdp2_reshard_after_forward") else 2), "torch"
    if a("use_megatron_fsdp"):
        return _STAGES.get(a("data_parallel_sharding_strategy"), 3), "megatron"
    distributed = a("use_distributed_optimizer") or a("optimizer") == "dist_muon"
    return int(a("zero_stage") or bool(distributed)), "megatron"


def _recompute(a: Arguments) -> Flat:
    kind = "selective" if a("recompute_activations") else "full" if a("checkpoint_activations") else None
    kind = kind or a("recompute_granularity") or "none"
    full = kind == "full"
    return {
        "parallelism.recompute": kind,
        "parallelism.recompute_method": a("recompute_method") if full else None,
        "parallelism.recompute_layers": a("recompute_num_layers") if full else None,
        **({} if kind == "selective" else {"parallelism.recompute_modules": None}),
    }


def _options(a: Arguments) -> Flat:
    megatron_fsdp = a("use_megatron_fsdp")
    fitting = "fsdp_dtensor" if megatron_fsdp else "torch_dist"
    moments = a("exp_avg_dtype")
    flat: Flat = {
        "checkpoint_format": None if a("ckpt_format") == fitting else a("ckpt_format"),
        "gradient_accumulation_fusion": a("gradient_accumulation_fusion"),
        "optimizer_moments": moments,
    }
    if (a("num_experts") or 1) > 1:
        flat |= {"moe_dispatcher": a("moe_token_dispatcher_type"), "moe_grouped_gemm": a("moe_grouped_gemm")}
    return {f"backend.megatron.{name}": value for name, value in flat.items()}
