"""Megatron-LM's arguments -> techniques of ``backend.megatron``: emit/megatron_techniques.py read backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from meshwright.imports.megatron_arguments import Arguments
from meshwright.imports.megatron_files import modules, overlapped, preset

__all__ = ["CARRIED", "PLAIN", "implied", "of_muon", "techniques", "unread"]

_HERE = "backend.megatron"

PLAIN = {
    f"{_HERE}.moe_flex_sms": "moe_flex_dispatcher_num_sms",
    f"{_HERE}.quantization.reuse_gradient_buffer": "reuse_grad_buf_for_mxfp8_param_ag",
    f"{_HERE}.quantization.output_projection": "fp8_output_proj",
    f"{_HERE}.cuda_graphs.kind": "cuda_graph_impl",
    f"{_HERE}.cuda_graphs.modules": "cuda_graph_modules",
    f"{_HERE}.experimental": "enable_experimental",
    f"{_HERE}.per_token_loss": "calculate_per_token_loss",
    f"{_HERE}.megatron_fsdp.meta_device": "init_model_with_meta_device",
    f"{_HERE}.activation_offload.layers": "cpu_offloading_num_layers",
    f"{_HERE}.activation_offload.fraction": "activation_offload_fraction",
    f"{_HERE}.activation_offload.inflight": "fine_grained_offloading_max_inflight_offloads",
    f"{_HERE}.optimizer_offload.overlap": "overlap_cpu_optimizer_d2h_h2d",
    f"{_HERE}.optimizer_master": "main_params_dtype",
    f"{_HERE}.optimizer_gradients": "main_grads_dtype",
    f"{_HERE}.megatron_fsdp.nccl_buffers": "nccl_ub",
    f"{_HERE}.megatron_fsdp.transpose_cache": "keep_fp8_transpose_cache",
    f"{_HERE}.megatron_fsdp.pooled_buffers": "megatron_fsdp_max_pool_double_buffer",
    f"{_HERE}.megatron_fsdp.persistent_fallback": "fsdp_db_use_persist_buf_on_alloc_fail",
    f"{_HERE}.tp_overlap.bootstrap": "tp_comm_bootstrap_backend",
    f"{_HERE}.tp_overlap.gather": "tp_comm_overlap_ag",
    f"{_HERE}.tp_overlap.scatter": "tp_comm_overlap_rs",
    f"{_HERE}.tp_overlap.scatter_dgrad": "tp_comm_overlap_rs_dgrad",
    f"{_HERE}.tp_overlap.bulk_dgrad": "tp_comm_bulk_dgrad",
    f"{_HERE}.tp_overlap.bulk_wgrad": "tp_comm_bulk_wgrad",
    f"{_HERE}.groups.nccl_config": "nccl_communicator_config_path",
    f"{_HERE}.groups.timeout_minutes": "distributed_timeout_minutes",
    f"{_HERE}.empty_cache": "empty_unused_memory_level",
}
"""One argument each, the same value."""

_WHERE: Mapping[str, tuple[str, Callable[[Arguments], bool], str]] = {
    f"{_HERE}.bucket": ("ddp_bucket_size", lambda a: bool(a("overlap_grad_reduce")), "nothing is reduced in buckets"),
    f"{_HERE}.megatron_fsdp.unit_size": (
        "suggested_communication_unit_size",
        lambda a: bool(a("use_megatron_fsdp")),
        "Megatron-FSDP is off",
    ),
    f"{_HERE}.cuda_graphs.warmup": (
        "cuda_graph_warmup_steps",
        lambda a: a("cuda_graph_impl") != "none",
        "there are no graphs",
    ),
    f"{_HERE}.quantization.amax_history": ("fp8_amax_history_len", lambda a: _delayed(a), "no scale is delayed"),
    f"{_HERE}.quantization.amax": ("fp8_amax_compute_algo", lambda a: _delayed(a), "no scale is delayed"),
    f"{_HERE}.activation_offload.min_elements": (
        "min_offloaded_tensor_size",
        lambda a: bool(a("fine_grained_activation_offloading")),
        "no module's inputs are offloaded",
    ),
    f"{_HERE}.activation_offload.delayed": (
        "delay_offload_until_cuda_graph",
        lambda a: bool(a("fine_grained_activation_offloading") and a("cuda_graph_impl") == "transformer_engine"),
        "nothing is offloaded beside graphs of layers",
    ),
    f"{_HERE}.checkpoint_parallel_load": (
        "ckpt_fully_parallel_load",
        lambda a: a("ckpt_format") == "torch_dist",
        "only torch_dist checkpoints are read in parts",
    ),
    f"{_HERE}.checkpoint_reshardable": (
        "dist_ckpt_optim_fully_reshardable",
        lambda a: a("ckpt_format") == "torch_dist" and bool(a("use_distributed_optimizer")),
        "no sharded optimizer is saved in a torch_dist checkpoint",
    ),
    f"{_HERE}.garbage.interval": ("manual_gc_interval", lambda a: bool(a("manual_gc")), "manual_gc is off"),
    f"{_HERE}.garbage.evaluation": ("manual_gc_eval", lambda a: bool(a("manual_gc")), "manual_gc is off"),
}
"""One argument each, read where another one is, and why not elsewhere."""

_MUON = {
    "nesterov": "muon_nesterov",
    "steps": "muon_num_ns_steps",
    "coefficients": "muon_coefficient_type",
    "scale": "muon_scale_mode",
    "extra_scale": "muon_extra_scale_factor",
    "products": "muon_fp32_matmul_prec",
    "split_qkv": "muon_split_qkv",
    "tp_mode": "muon_tp_mode",
    "scalars": "muon_scalar_optimizer",
}

CARRIED = {
    f"{_HERE}.quantization.param_gather": "fp8_param_gather fp4_param_gather",
    f"{_HERE}.quantization.first_layers_bf16": "first_last_layers_bf16 num_layers_at_start_in_bf16",
    f"{_HERE}.quantization.last_layers_bf16": "num_layers_at_end_in_bf16",
    f"{_HERE}.activation_offload.modules": "fine_grained_activation_offloading offload_modules",
    f"{_HERE}.optimizer_offload.fraction": "optimizer_cpu_offload optimizer_offload_fraction",
    f"{_HERE}.megatron_fsdp.double_buffer": "fsdp_double_buffer fsdp_manual_registration",
    f"{_HERE}.megatron_fsdp.outer_optimizer": "outer_dp_sharding_strategy",
    f"{_HERE}.megatron_fsdp.symmetric_buffers": "disable_symmetric_registration",
    f"{_HERE}.quantization.modules": "te_precision_config_file",
    f"{_HERE}.tp_overlap.products": "tp_comm_overlap_cfg",
    f"{_HERE}.groups.sharp": "use_sharp sharp_enabled_group",
    f"{_HERE}.groups.high_priority": "high_priority_stream_groups",
    f"{_HERE}.decay_qk_norms": "apply_wd_to_qk_layernorm no_weight_decay_cond_type",
    **{path: argument for path, (argument, _, _) in _WHERE.items()},
    f"{_HERE}.garbage.interval": "manual_gc manual_gc_interval",
    **{f"{_HERE}.muon.{name}": argument for name, argument in _MUON.items()},
}


def techniques(a: Arguments) -> dict[str, Any]:
    """Graphs, 8- and 4-bit details, offload by dotted path."""
    ends = a("first_last_layers_bf16")
    return {
        **{path: a(name) for path, name in PLAIN.items()},
        **({f"{_HERE}.muon.{name}": a(argument) for name, argument in _MUON.items()} if of_muon(a) else {}),
        **{path: a(name) for path, (name, read, _) in _WHERE.items() if read(a)},
        f"{_HERE}.decay_qk_norms": a("apply_wd_to_qk_layernorm") or a("no_weight_decay_cond_type") == _DECAYS,
        f"{_HERE}.groups.sharp": (a("sharp_enabled_group") or "dp") if a("use_sharp") else "none",
        f"{_HERE}.groups.high_priority": a("high_priority_stream_groups") or [],
        f"{_HERE}.quantization.param_gather": a("fp8_param_gather") or a("fp4_param_gather"),
        f"{_HERE}.quantization.first_layers_bf16": a("num_layers_at_start_in_bf16") if ends else 0,
        f"{_HERE}.quantization.last_layers_bf16": a("num_layers_at_end_in_bf16") if ends else 0,
        f"{_HERE}.activation_offload.modules": (
            a("offload_modules") if a("fine_grained_activation_offloading") else []
        ),
        f"{_HERE}.megatron_fsdp.double_buffer": _buffered_twice(a),
        f"{_HERE}.megatron_fsdp.symmetric_buffers": not a("disable_symmetric_registration"),
        f"{_HERE}.quantization.modules": modules(a) or [],
        **_buffers(a),
        f"{_HERE}.megatron_fsdp.outer_optimizer": a("outer_dp_sharding_strategy") == "optim",
        f"{_HERE}.optimizer_offload.fraction": a("optimizer_offload_fraction") if a("optimizer_cpu_offload") else 0.0,
    }


_DECAYS = "apply_wd_to_qk_layernorm"  # the only condition that Megatron knows (training/arguments.py:1343)


def _delayed(a: Arguments) -> bool:
    return bool(a("fp8")) and a("fp8_recipe") == "delayed"


def unread(name: str, a: Arguments) -> str | None:
    """Why an argument says nothing beside the others."""
    if name == "tp_comm_overlap_cfg" and not a("tp_comm_overlap"):
        return "nothing overlaps: tp_comm_overlap is off"
    return next((why for argument, read, why in _WHERE.values() if argument == name and not read(a)), None)


def _buffers(a: Arguments) -> dict[str, Any]:
    """User buffers by product, of an overlap that is on: nothing else reads them (training/initialize.py:157)."""
    table = preset(a) if a("tp_comm_overlap") else None
    single = a("tp_comm_overlap") and not table
    return {
        f"{_HERE}.tp_overlap.preset": table,
        f"{_HERE}.tp_overlap.products": (overlapped(a) or []) if single else [],
    }


def _buffered_twice(a: Arguments) -> bool:
    """Two flags of Megatron-FSDP ask for it, too (training/arguments.py:1152, :1159)."""
    implied = a("nccl_ub") or a("megatron_fsdp_max_pool_double_buffer")
    return bool(a("fsdp_double_buffer") or (implied and a("use_megatron_fsdp")))


def of_muon(a: Arguments) -> bool:
    """Whether the optimizer is Muon, under either of its names."""
    return a("optimizer") in ("muon", "dist_muon")


def implied(kind: str) -> tuple[str, ...]:
    """Arguments that the emitter states by itself with graphs of a ``kind``."""
    if kind == "none":
        return ()
    whole = ("check_for_nan_in_loss_and_grad",) if kind == "full_iteration" else ()
    return ("te_rng_tracker", *whole)
