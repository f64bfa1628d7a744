"""What Megatron's parsed arguments must hold of the techniques of a plan, said a second time on purpose."""

from __future__ import annotations

from typing import Any

from meshwright.layout.plan import Plan
from meshwright.model.user_buffers import products
from meshwright.spec.techniques import ExpertOptions

__all__ = ["expected_techniques"]


def expected_techniques(plan: Plan) -> dict[str, Any]:
    """Values by the name of the argument: experts' kernels, graphs, few bits, offload, Megatron-FSDP, Muon."""
    return {
        **_dispatch(plan),
        **_techniques(plan),
        **_offload(plan),
        **_fsdp(plan),
        **_overlap(plan),
        **_muon(plan),
        **_groups(plan),
        **_checkpoints(plan),
        **_step(plan),
    }


def _dispatch(plan: Plan) -> dict[str, Any]:
    """Nothing where there are no experts; what flex calls only with flex."""
    o = plan.spec.backend.megatron
    if plan.spec.model.moe is None:
        return {}
    flex = {"moe_flex_dispatcher_backend": o.moe_flex_backend, "moe_flex_dispatcher_num_sms": o.moe_flex_sms}
    return {
        "moe_token_dispatcher_type": o.moe_dispatcher,
        "moe_latent_size": plan.spec.model.moe.latent,
        "moe_router_quantile_balancing_ema": plan.spec.model.moe.quantile_ema,
        "moe_expert_capacity_factor": plan.spec.model.moe.capacity_factor,
        "moe_token_drop_policy": plan.spec.model.moe.drop_policy,
        "moe_router_fusion": o.moe_router_fusion,
        "moe_permute_fusion": o.moe_permute_fusion,
        "use_fused_weighted_squared_relu": plan.spec.model.activation == "squared_relu"
        and not plan.spec.model.linear_bias,
        "moe_shared_expert_overlap": o.moe_shared_expert_overlap,
        "moe_expert_rank_capacity_factor": o.moe_rank_capacity,
        "moe_paged_stash": o.moe_paged_stash,
        **_feeding(o.experts),
        **(flex if o.moe_dispatcher == "flex" else {}),
    }


def _feeding(experts: ExpertOptions) -> dict[str, Any]:
    return {
        "moe_router_force_load_balancing": experts.balanced,
        "moe_router_padding_for_quantization": experts.padded,
        "moe_pad_expert_input_to_capacity": experts.padded_to_capacity,
        "moe_mlp_glu_interleave_size": experts.interleave,
        "high_priority_a2a_comm_stream": experts.priority_stream,
        "moe_permute_fusion_into_hybridep": experts.permute_in_dispatch,
        "moe_hybridep_num_sms_preprocessing": experts.preprocessing_sms,
        "overlap_dispatch_backward_with_experts_wgrad": experts.wgrad_beside_dispatch,
        "ep_overlap_early_attn_memory_release": experts.early_release,
        "moe_paged_stash_buffer_size_factor_cuda": experts.stash_gpu,
        "moe_paged_stash_buffer_size_factor_cpu": experts.stash_host,
    }


def _techniques(plan: Plan) -> dict[str, Any]:
    o, details = plan.spec.backend.megatron, plan.spec.backend.megatron.quantization
    four = plan.spec.training.precision == "nvfp4"
    kept = details.first_layers_bf16 + details.last_layers_bf16 > 0
    counts = {
        "num_layers_at_start_in_bf16": details.first_layers_bf16,
        "num_layers_at_end_in_bf16": details.last_layers_bf16,
    }
    return {
        "cuda_graph_impl": o.cuda_graphs.kind,
        "cuda_graph_warmup_steps": o.cuda_graphs.warmup,
        "delay_wgrad_compute": o.delay_wgrad,
        "overlap_param_gather_with_optimizer_step": o.gather_with_step,
        "use_transformer_engine_op_fuser": o.op_fuser,
        "fp4": "e2m1" if four else None,
        "fp8_param_gather": details.param_gather and not four,
        "fp4_param_gather": details.param_gather and four,
        "reuse_grad_buf_for_mxfp8_param_ag": details.reuse_gradient_buffer,
        "first_last_layers_bf16": kept,
        "fp8_output_proj": details.output_projection,
        "fp8_amax_history_len": details.amax_history,
        "fp8_amax_compute_algo": details.amax,
        **(counts if kept else {}),
    }


def _offload(plan: Plan) -> dict[str, Any]:
    activations = plan.spec.backend.megatron.activation_offload
    optimizer = plan.spec.backend.megatron.optimizer_offload
    part = {"optimizer_offload_fraction": optimizer.fraction} if optimizer.fraction else {}
    return {
        "fine_grained_activation_offloading": bool(activations.modules),
        "offload_modules": list(activations.modules),
        "activation_offload_fraction": activations.fraction,
        "min_offloaded_tensor_size": activations.min_elements,
        "fine_grained_offloading_max_inflight_offloads": activations.inflight,
        "cpu_offloading_num_layers": activations.layers,
        "delay_offload_until_cuda_graph": activations.delayed,
        "optimizer_cpu_offload": optimizer.fraction > 0,
        "overlap_cpu_optimizer_d2h_h2d": optimizer.overlap,
        **part,
    }


def _fsdp(plan: Plan) -> dict[str, Any]:
    fsdp = plan.spec.backend.megatron.megatron_fsdp
    return {
        "fsdp_double_buffer": fsdp.double_buffer,
        "keep_fp8_transpose_cache": fsdp.transpose_cache,
        "nccl_ub": fsdp.nccl_buffers,
        "fsdp_manual_registration": fsdp.nccl_buffers,
        "disable_symmetric_registration": not fsdp.symmetric_buffers,
        "megatron_fsdp_max_pool_double_buffer": fsdp.pooled_buffers,
        "fsdp_db_use_persist_buf_on_alloc_fail": fsdp.persistent_fallback,
        "outer_dp_sharding_strategy": "optim" if fsdp.outer_optimizer else "no_shard",
        "init_model_with_meta_device": fsdp.meta_device,
        "suggested_communication_unit_size": fsdp.unit_size,
    }


def _overlap(plan: Plan) -> dict[str, Any]:
    overlap = plan.spec.backend.megatron.tp_overlap
    return {
        "tp_comm_bootstrap_backend": overlap.bootstrap,
        "tp_comm_overlap_ag": overlap.gather,
        "tp_comm_overlap_rs": overlap.scatter,
        "tp_comm_overlap_rs_dgrad": overlap.scatter_dgrad,
        "tp_comm_bulk_dgrad": overlap.bulk_dgrad,
        "tp_comm_bulk_wgrad": overlap.bulk_wgrad,
        "tp_comm_overlap_cfg": products(overlap) or None,  # the file's content stands for its path
    }


def _muon(plan: Plan) -> dict[str, Any]:
    """Nothing under another optimizer."""
    muon, optimizer = plan.spec.backend.megatron.muon, plan.spec.training.optimizer
    if optimizer.name != "muon":
        return {}
    return {
        "muon_momentum": optimizer.momentum,
        "muon_nesterov": muon.nesterov,
        "muon_num_ns_steps": muon.steps,
        "muon_coefficient_type": muon.coefficients,
        "muon_scale_mode": muon.scale,
        "muon_extra_scale_factor": muon.extra_scale,
        "muon_fp32_matmul_prec": muon.products,
        "muon_split_qkv": muon.split_qkv,
        "muon_tp_mode": muon.tp_mode,
        "muon_scalar_optimizer": muon.scalars,
    }


def _groups(plan: Plan) -> dict[str, Any]:
    groups, grid = plan.spec.backend.megatron.groups, plan.grid
    blackwell = float(plan.spec.cluster.accelerator.capability) >= 10
    first = list(groups.high_priority)
    if plan.spec.parallelism.zero > 1 and (blackwell or plan.spec.backend.megatron.fsdp == "torch"):
        first += ["dp_cp"] + ["ep_dp"] * (grid.ep > 1)
    if blackwell and (grid.gtp > 1 or grid.egtp > 1):
        first += ["gtp_remat"] + ["expt_gtp_remat"] * (grid.egtp > 1)
    return {
        "high_priority_stream_groups": list(dict.fromkeys(first)),
        "nccl_communicator_config_path": groups.nccl_config,
        "use_sharp": groups.sharp != "none",
        "sharp_enabled_group": None if groups.sharp == "none" else groups.sharp,
        "distributed_timeout_minutes": groups.timeout_minutes,
    }


def _checkpoints(plan: Plan) -> dict[str, Any]:
    options = plan.spec.backend.megatron
    return {
        "ckpt_fully_parallel_load": options.checkpoint_parallel_load,
        "dist_ckpt_optim_fully_reshardable": options.checkpoint_reshardable,
        "empty_unused_memory_level": options.empty_cache,
    }


def _step(plan: Plan) -> dict[str, Any]:
    options = plan.spec.backend.megatron
    return {
        "enable_experimental": options.experimental,
        "calculate_per_token_loss": options.per_token_loss,
        "ddp_bucket_size": options.bucket,
        "apply_wd_to_qk_layernorm": options.decay_qk_norms,
        "manual_gc": options.garbage.interval is not None,
        "manual_gc_interval": options.garbage.interval or 0,
        "manual_gc_eval": options.garbage.evaluation,
    }
