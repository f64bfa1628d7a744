"""Where what we emit for one of NVIDIA's performance recipes is not what its ConfigContainer sets, and why."""

from __future__ import annotations

from typing import Any

__all__ = ["DIFFERENT", "ENVIRONMENT", "NO_ARGUMENT", "RENAMED", "WITHOUT_RECIPE"]

RENAMED = {
    **{f"ddp.{name}": f"ddp_{name}" for name in ("average_in_collective", "bucket_size", "num_buckets")},
    "ddp.pad_buckets_for_high_nccl_busbw": "ddp_pad_buckets_for_high_nccl_busbw",
    "ddp.reduce_scatter_with_fp32_accumulation": "ddp_reduce_scatter_with_fp32_accumulation",
    "ddp.grad_reduce_in_fp32": "accumulate_allreduce_grads_in_fp32",
    "dist.enable_megatron_core_experimental": "enable_experimental",
    "ddp.check_for_nan_in_grad": "check_for_nan_in_loss_and_grad",
    "model.use_te_rng_tracker": "te_rng_tracker",
    "model.moe_hybridep_num_sms": "moe_flex_dispatcher_num_sms",
    "model.moe_deepep_num_sms": "moe_flex_dispatcher_num_sms",
}
"""Keys whose argument in Megatron-LM has another name (training/training.py copies them)."""

NO_ARGUMENT = {
    "ddp.param_name_patterns_for_fp32_local_accumulation": "no recipe names a parameter",
    "ddp.fsdp_all_gather_in_start_param_sync": "training.py derives it from the graphs",
    "ddp.megatron_fsdp_cuda_graph_mode": "training.py derives it from the graphs",
    "ddp.megatron_fsdp_use_decoupled_grad": "training.py derives it from the precision-aware optimizer",
    "dist.eval_context_parallel_size": "none evaluates under another degree",
    "dist.external_gpu_device_mapping": "which GPU a rank takes: torchrun says it",
    "dist.use_decentralized_pg": "groups made by Bridge itself, off",
    "model._pipeline_model_parallel_layout_builder": "what made the layout, which is compared",
    "model.moe_a2a_overlap": "a name that no code reads; overlap_moe_expert_parallel_comm is what it sets",
    **dict.fromkeys(("model.hf_model_id", "model.hf_model_revision"), "whose files are read, not what is computed"),
    "model.keep_mtp_spec_in_bf16": "Megatron-LM says it by a glob of its precision file, which the recipes do not need",
    "model.should_pad_vocab": "Megatron-LM pads always",
    "optimizer.decoupled_weight_decay": "Megatron-LM says it by the optimizer's name",
    "optimizer.grad_norm_skip_threshold": "infinite: nothing is skipped",
    "optimizer.store_param_remainders": "Megatron-core's default, which no argument changes",
    "optimizer.timers": "an object of the running program",
    **{f"optimizer.adaptive_muon_{name}": "of another Muon" for name in ("beta2", "eps", "moment2_method")},
    **{
        f"scheduler.{name}": "derived once the steps are known"
        for name in ("lr_decay_steps", "lr_warmup_steps", "max_steps", "wd_incr_steps", "wsd_decay_steps")
    },
    "train._train_iters_from_num_epochs": "epochs, which a benchmark has none of",
    "train.num_epochs": "epochs, which a benchmark has none of",
    "train.check_optimizer_step_success": "Bridge's own training loop",
    "train.skip_sync_grad_norm_across_mp": "Bridge's own training loop",
}
"""Keys that Megatron-LM has no argument for."""

_AHEAD = "Megatron-LM refuses it where gradients are reduced at the end alone (arguments.py:994)"
_LOOP = "how the host ends, not what the GPUs run"
_DECAY = "their scheduler multiplies the decay in this way at every step; a run on random data does not show it"
_BESIDE = "GPTModel builds no multi-token prediction beside delta nets (models/gpt/gpt_layer_specs.py:572)"

DIFFERENT: dict[str, tuple[tuple[Any, Any, str], ...]] = {
    "ddp.average_in_collective": (
        (True, False, "the mean is taken before the collective, which sends the same bytes"),
    ),
    "ddp.bucket_size": ((134217728, None, "nothing is reduced beside the backward pass, so that no bucket is read"),),
    "ddp.check_for_nan_in_grad": ((False, True, "a run of ours stops at a gradient that is no number"),),
    "ddp.megatron_fsdp_grad_comm_dtype": (
        ("bfloat16", None, "None sends gradients as they are kept (megatron_fsdp/mixed_precision.py:402)"),
    ),
    "ddp.megatron_fsdp_main_grads_dtype": (
        ("bfloat16", None, "None: as parameters are, of those in 8 bits bf16 (param_and_grad_buffer.py:2310)"),
    ),
    "ddp.num_buckets": (
        (48, None, "Megatron-FSDP sends layer by layer; it parts what is no layer (param_and_grad_buffer.py:1857)"),
    ),
    "ddp.overlap_param_gather": ((True, False, _AHEAD),),
    "ddp.use_custom_fsdp": ((False, True, "the former name of use_megatron_fsdp, which Megatron-LM sets beside it"),),
    "dist.distributed_timeout_minutes": tuple(
        (n, 10, "how long a collective that hangs is waited for") for n in (15, 220)
    ),
    "dist.high_priority_stream_groups": tuple(
        (theirs, [*theirs, *added], "what Megatron-LM adds for FSDP on Blackwell (arguments.py:1446)")
        for theirs, added in (([], ["dp_cp"]), ([], ["dp_cp", "ep_dp"]), (["ep"], ["dp_cp", "ep_dp"]))
    ),
    "model.apply_rope_fusion": ((True, False, "for MLA Megatron-core fuses YaRN alone (transformer_config.py:2966)"),),
    "model.attention_backend": ((None, "auto", "None lets Transformer Engine choose, too"),),
    "model.cross_entropy_fusion_impl": (("te", "native", "Megatron-LM refuses te as unstable (arguments.py:1643)"),),
    "model.fp8": (("hybrid", "e4m3", "scales of blocks leave E4M3 range enough (DeepSeek-V3, section 3.3.2)"),),
    "model.fp8_dot_product_attention": ((True, False, "no option of ours; the recipe's differences say so"),),
    "model.gradient_accumulation_fusion": ((True, False, "below Megatron-FSDP ours is off"),),
    "model.moe_pad_experts_for_cuda_graph_inference": ((True, False, "inference alone reads it"),),
    "model.mtp_num_layers": ((1, None, _BESIDE),),
    "model.pipeline_model_parallel_layout": (("Et*4|(t*7|)*5t*8|tmL", "Et*4|(t*7|)*5t*8|tL", _BESIDE),),
    "optimizer.use_precision_aware_optimizer": (
        (False, True, "in bf16 their script switches it on, whatever the recipe says (run_script.py:151)"),
    ),
    "model.recompute_granularity": (("selective", None, "of no module: nothing is recomputed"),),
    "model.recompute_modules": (
        ([], ["core_attn"], "Megatron-core's default, which nothing reads without granularity"),
    ),
    "model.rotary_scaling_factor": ((40, 1.0, "the model as pre-trained; theirs stretches positions as after it"),),
    "model.moe_router_dtype": (
        ("bf16", "fp32", "no name that Megatron-core knows (fp32 and fp64 are); ours scores sigmoids in fp32"),
        ("float32", None, "no name that Megatron-core knows: scores stay in the products' precision"),
    ),
    "model.moe_router_group_topk": ((1, None, "one group of one: no groups"),),
    "model.moe_router_num_groups": ((1, None, "one group of one: no groups"),),
    "model.use_te_rng_tracker": ((True, False, "no graph holds its state in this recipe"),),
    "optimizer.barrier_with_L1_time": ((False, True, "timers that ours does not print"),),
    "optimizer.main_grads_dtype": (("bfloat16", "float32", "with FSDP the master gradients are Megatron-FSDP's"),),
    "optimizer.optimizer": (("dist_muon", "muon", "Megatron-LM's name beside use_distributed_optimizer"),),
    "optimizer.overlap_param_gather": ((True, False, _AHEAD),),
    "optimizer.overlap_param_gather_with_optimizer_step": ((True, False, _AHEAD),),
    "optimizer.use_layer_wise_distributed_optimizer": ((False, True, "what dist_muon is: set by Megatron-LM itself"),),
    "rng.te_rng_tracker": ((True, False, "no graph holds its state in this recipe"),),
    "scheduler.end_weight_decay": ((0.033, 0.1, _DECAY),),
    "scheduler.start_weight_decay": ((0.033, 0.1, _DECAY),),
    "scheduler.lr_wsd_decay_iters": (
        (None, 50, "where it is not set theirs takes all of lr_decay_iters (training/config.py:1777)"),
    ),
    "scheduler.override_opt_param_scheduler": ((True, False, "read when a checkpoint is continued"),),
    "train.eval_iters": ((0, 100, "ours has no validation to count them for"),),
    "train.exit_signal": ((15, "SIGTERM", "the same signal by its name"),),
    "train.exit_signal_handler": ((False, True, _LOOP),),
    "train.manual_gc_eval": tuple((n, True, "a number where Megatron has a switch: on") for n in (100, 5)),
    "validation.eval_iters": ((32, 100, "ours has no validation to count them for"),),
}
"""(theirs, ours, reason) by key."""

ENVIRONMENT = {
    ("CUDA_DEVICE_MAX_CONNECTIONS", "32", "1"): "before Blackwell Megatron-LM refuses tp or cp so (arguments.py:1436)",
    ("NCCL_IB_TIMEOUT", None, "22"): "the cluster's own: conf/cluster/dgx_h100.yaml",
    ("OMP_NUM_THREADS", None, "1"): "what torchrun sets where nothing does",
}
"""(variable, theirs, ours): reason."""

WITHOUT_RECIPE = {
    r"deepseek_v3_pretrain_64gpu_h100_.*": "ep 64 with pp 8 does not fit 64 GPUs",
    r"deepseek_v3_.*_partial_cg_dev": "16 chunks of a layout for pp 4 times vpp 2",
    r"qwen3_235b_a22b_pretrain_64gpu_gb200_(fp8cs|fp8mx|nvfp4)": "ep 32 with pp 8 does not fit 64 GPUs",
    r"qwen3_235b_a22b_pretrain_64gpu_gb300_.*": "ep 32 with pp 4 does not fit 64 GPUs",
    r"nemotronh_56b_pretrain_256gpu_.*_bf16": "192 sequences do not divide by 128 data-parallel ranks",
    r"gpt_oss_20b_.*": "a warm-up longer than the schedule, or sequences of the data unlike the model's",
    r"llama3_8b_pretrain_8gpu_r100_.*": "a Vera Rubin GPU, as vr200's are, of which conf/cluster has none",
}
"""Their functions that no recipe of ours is, and why."""
