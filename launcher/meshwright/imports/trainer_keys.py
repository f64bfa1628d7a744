"""Keys beside the Trainer's arguments that we carry, and why the others are not carried.

Names: transformers 5.24 TrainingArguments; LLaMA-Factory's and axolotl's own keys in the same files.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LOST", "adapted"]

_LOGS = "how it logs, saves and evaluates; training.logging says what is kept here"
_DATA = "how it reads its data; training.data says where ours are"
_HOW = "how the Trainer starts, loads or compiles; no layout depends on it"
_ADAPTER = "adapters are not described here"
_METHOD = "another method than training on the next token"

LOST: Mapping[str, str] = {
    "num_train_epochs": "epochs are as long as the data are; give training.steps or training.tokens",
    "num_epochs": "epochs are as long as the data are; give training.steps or training.tokens",
    "warmup_ratio": "a part of a length that is not stated in steps; give training.schedule.warmup_steps",
    "model": "no folder here; give model=NAME, or model=hf model.path=DIR",
    "model_name_or_path": "no folder here; give model=NAME, or model=hf model.path=DIR",
    "base_model": "no folder here; give model=NAME, or model=hf model.path=DIR",
    "fp8": "DeepSpeed has no 8-bit training",
    "fp8_backend": "DeepSpeed has no 8-bit training",
    "fp8_enable_fsdp_float8_all_gather": "DeepSpeed has no 8-bit training",
    "deepspeed": "a further file: give it, too, where it is not beside this one",
    "fsdp": "read as a ZeRO stage",
    "fsdp_config": "how parameters are wrapped, saved or loaded; DeepSpeed needs no such word",
    "fsdp_version": "either is read as a ZeRO stage",
    **dict.fromkeys(
        (
            *("report_to", "run_name", "project", "logging_dir", "logging_strategy", "logging_first_step", "log_level"),
            *("log_level_replica", "log_on_each_node", "logging_nan_inf_filter", "include_num_input_tokens_seen"),
            *("disable_tqdm", "plot_loss", "do_eval", "do_predict", "eval_strategy", "evaluation_strategy"),
            *("eval_steps", "eval_delay", "eval_on_start", "eval_accumulation_steps", "per_device_eval_batch_size"),
            *("prediction_loss_only", "include_for_metrics", "batch_eval_metrics", "load_best_model_at_end"),
            *("metric_for_best_model", "greater_is_better", "save_strategy", "save_total_limit", "save_only_model"),
            *("save_on_each_node", "save_safetensors", "push_to_hub", "hub_token", "hub_model_id", "hub_strategy"),
            *("hub_private_repo", "hub_always_push", "val_set_size", "val_size", "eval_dataset", "evals_per_epoch"),
            *("saves_per_epoch", "wandb_entity", "wandb_watch", "wandb_name", "wandb_run_id", "wandb_log_model"),
            *("trackio_project_name", "trackio_run_name", "trackio_space_id", "log_completions"),
            *("wandb_project", "eval_batch_size", "eval_table_size", "early_stopping_patience", "use_tensorboard"),
        ),
        _LOGS,
    ),
    **dict.fromkeys(
        (
            *("dataset", "datasets", "dataset_name", "dataset_config_name", "dataset_dir", "train_file", "data_path"),
            *("validation_file", "max_samples", "max_train_samples", "max_eval_samples", "max_steps_per_epoch"),
            *("overwrite_cache", "preprocessing_num_workers", "template", "cache_dir", "media_dir", "packing"),
            *("data_seed", "dataloader_drop_last", "dataloader_pin_memory", "dataloader_persistent_workers"),
            *("dataloader_prefetch_factor", "remove_unused_columns", "label_names", "group_by_length", "streaming"),
            *("length_column_name", "chat_template", "tokenizer_type", "tokenizer_name", "special_tokens", "tokens"),
            *("dataset_prepared_path", "sample_packing", "eval_sample_packing", "pad_to_sequence_len", "eot_tokens"),
            *(
                "skip_prepare_dataset",
                "train_on_inputs",
                "pretraining_dataset",
                "test_datasets",
                "shuffle_merged_datasets",
            ),
            *("image_max_pixels", "video_max_pixels", "video_fps", "video_maxlen", "train_on_prompt", "mask_history"),
            *("dataset_num_proc", "dataset_mixture", "dataset_config", "dataset_text_field", "eos_token", "system"),
            *("load_from_cache_file", "split_dataset_ratio", "dataset_test_split", "dataset_train_split"),
            *("push_dataset_to_hub", "tokenizer_use_mistral_common", "processor_type", "data_split"),
        ),
        _DATA,
    ),
    **dict.fromkeys(
        (
            *("do_train", "overwrite_output_dir", "resume_from_checkpoint", "local_rank", "ddp_timeout", "strict"),
            *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_backend", "torch_compile", "trust_remote_code"),
            *("torch_compile_backend", "torch_compile_mode", "tf32", "use_cpu", "full_determinism", "debug"),
            *("skip_memory_metrics", "use_liger_kernel", "enable_liger_kernel", "accelerator_config", "plugins"),
            *("gradient_checkpointing_kwargs", "torch_empty_cache_steps", "auto_find_batch_size", "optim_args"),
            *("lr_scheduler_kwargs", "use_fast_tokenizer", "model_type", "model_revision", "attn_implementation"),
            *("flash_attn", "flash_attention", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm"),
            *("liger_rope", "liger_fused_linear_cross_entropy", "use_cache", "low_cpu_mem_usage", "torch_dtype"),
            *("is_llama_derived_model", "load_in_8bit", "auto_resume_from_checkpoints", "loss_watchdog_threshold"),
            *("use_kernels", "use_v1_kernels", "experimental_skip_move_to_device", "average_tokens_across_devices"),
            *(
                "padding_free",
                "attn_impl",
                "model_author",
                "model_name",
                "use_hf",
                "model_config",
                "activation_offloading",
            ),
            *("loss_watchdog_patience", "label_smoothing_factor", "neftune_noise_alpha", "hub_revision"),
        ),
        _HOW,
    ),
    **dict.fromkeys(
        (
            *(
                "finetuning_type",
                "adapter",
                "tuner_type",
                "train_type",
                "quantize_moe_experts",
                "model_quantization_config",
            ),
            *("model_quantization_config_kwargs", "lora_rank", "lora_r", "lora_alpha", "lora_dropout", "lora_target"),
            *("lora_target_modules", "lora_target_linear", "lora_model_dir", "lora_modules_to_save", "lora_dim"),
            *("lora_module_name", "only_optimize_lora", "quantization_bit", "quantization_method", "load_in_4bit"),
            *("double_quantization", "oft_block_size", "oft_target", "use_dora", "adapter_name_or_path"),
            *("freeze_trainable_layers", "freeze_trainable_modules", "lora_mlp_kernel", "lora_qkv_kernel"),
            *("lora_o_kernel", "gptq", "unfrozen_parameters", "relora", "lora_target_parameters"),
        ),
        _ADAPTER,
    ),
    **dict.fromkeys(
        (
            *("beta", "loss_type", "kto_desirable_weight", "kto_undesirable_weight", "orpo_alpha", "temperature"),
            *("max_completion_length", "max_prompt_length", "num_generations", "lmbda", "sft_alpha", "rlhf_type"),
            *("reward_funcs", "reward_weights", "use_vllm", "vllm_mode", "vllm_device", "num_iterations"),
            *("vllm_gpu_memory_utilization", "callbacks", "benchmarks", "scale_rewards", "epsilon", "system_prompt"),
        ),
        _METHOD,
    ),
    **dict.fromkeys(("stage", "rl", "pref_beta", "pref_loss", "reward_model", "trl", "dpo_beta", "rl_beta"), _METHOD),
}
"""By key: why it is not carried."""


_ADAPTED: Mapping[str, tuple[str, ...]] = {
    "finetuning_type": ("lora", "freeze", "oft"),
    "adapter": ("lora", "qlora", "llama-adapter"),
    **dict.fromkeys(("tuner_type", "train_type"), ("lora", "longlora", "adalora", "lora_llm")),
}
"""Values that say so, by key."""


def adapted(values: Mapping[str, object]) -> str | None:
    """The key that says that adapters, or a few layers, are trained and not the model."""
    key = next((key for key, held in _ADAPTED.items() if str(values.get(key)) in held), None)
    if key is not None:
        return key
    sizes = ("lora_rank", "lora_r", "lora_dim")
    return next((key for key in sizes if "finetuning_type" not in values and _positive(values.get(key))), None)


def _positive(value: object) -> bool:
    return isinstance(value, int) and value > 0
