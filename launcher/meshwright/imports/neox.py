"""gpt-neox: what its keys are called in Megatron-LM (EleutherAI/gpt-neox megatron/neox_arguments)."""

from __future__ import annotations

from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.foreign_parts import OTHER
from meshwright.imports.shape_values import (
    KERNELS,
    OWN,
    POSITIONS,
    STYLES,
    activation,
    first,
    on,
    paths,
    second_beta,
    switch,
)
from meshwright.imports.shaped import Shape, To

__all__ = ["NEOX"]


def _of_neox(leaves: Leaves) -> dict[str, Any]:
    """The width of a gated MLP, which versions state differently (megatron/model/transformer.py).

    Earlier ones state it as it is, or leave it to the 8/3 of LLaMA; since 2024 it is the two thirds, halved, of what is
    stated, and filled up: no model is as wide as three times that.
    """
    said = {key: leaves[key].value for key in ("activation", "intermediate_size", "hidden_size") if key in leaves}
    more = second_beta("optimizer.params.betas")(leaves)
    more |= {"fp16": True} if "precision" in leaves and leaves["precision"].value == "fp16" else {}
    more |= {"glu_activation": "geglu"} if said.get("activation") == "geglu" else {}
    if said.get("activation") not in ("swiglu", "geglu") or not isinstance(said.get("hidden_size"), int):
        return more
    hidden, stated = said["hidden_size"], said.get("intermediate_size")
    if stated and stated < 5 * hidden:
        return more
    width = int(stated * 2 / 3) // 2 if stated else int(8 * hidden / 3)
    multiple = leaves["mlp_multiple_of"].value if "mlp_multiple_of" in leaves else 256
    return {**more, "ffn_hidden_size": -(-width // multiple) * multiple}


NEOX = Shape(
    kind="gpt-neox configuration",
    more=_of_neox,
    sections=("",),
    defaults={"hidden_dropout": 0.0, "attention_dropout": 0.0, "bias_gelu_fusion": False, "weight_decay": 0.1},
    keys={
        "pipe_parallel_size": To("pipeline_model_parallel_size", lambda size: max(1, size)),
        "model_parallel_size": To("tensor_model_parallel_size", lambda size: max(1, size)),
        "num_kv_heads": To("num_query_groups"),
        "intermediate_size": To("ffn_hidden_size"),
        "norm": To("normalization", {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}.__getitem__),
        "rms_norm_epsilon": To("layernorm_epsilon", float),
        "pos_emb": To("position_embedding_type", POSITIONS.__getitem__),
        "rotary_pct": To("rotary_percent", float),
        "rotary_emb_base": To("rotary_base"),
        "no_weight_tying": To("untie_embeddings_and_output_weights", switch),
        "activation": To("swiglu", activation("swiglu"), usual=("gelu",), beside=("geglu",)),
        "use_bias_in_attn_linear": To("add_bias_linear", switch),
        "optimizer.type": To(
            "optimizer", {"Adam": "adam", "AdamW": "adam", "OneBitAdam": "adam", "SGD": "sgd"}.__getitem__
        ),
        "optimizer.params.lr": To("lr", float),
        "optimizer.params.betas": To("adam_beta1", first),
        "optimizer.params.eps": To("adam_eps", float),
        "zero_optimization.stage": To("zero_stage"),
        "train_micro_batch_size_per_gpu": To("micro_batch_size"),
        "train_batch_size": To("global_batch_size"),
        "gradient_clipping": To("clip_grad", float),
        "warmup_iters": To("lr_warmup_iters"),
        "warmup": To("lr_warmup_fraction", float),
        "lr_decay_style": To("lr_decay_style", STYLES.__getitem__),
        "fp16.enabled": To("fp16", on),
        "bf16.enabled": To("bf16", on),
        "precision": To("bf16", lambda kind: True if kind == "bfloat16" else None, usual=("fp32",), beside=("fp16",)),
        "checkpoint_activations": To("checkpoint_activations", on),
        "checkpoint_num_layers": To("recompute_num_layers"),
        "checkpoint_factor": To("save_interval"),
        "data_path": To("data_path", paths),
        "train_data_paths": To("data_path", paths),
    },
    own={
        "gradient_accumulation_steps": ("training.microbatches", lambda steps: steps),
        "gpt_j_residual": ("model.parallel_residual", bool),
        "gpt_j_tied": ("model.shared_parallel_norm", bool),
    },
    reasons={
        **dict.fromkeys(
            (
                *("fp16", "bf16", "zero_optimization", "optimizer", "comms_logger", "flops_profiler", "comment"),
                *("deepspeed_extra_args", "deepspeed_slurm", "extra_save_iters", "log_grad_norm", "autotuning"),
                *("autotuning_config", "no_ssh_check", "wandb_team", "wandb_group", "wandb_host", "use_comet"),
                *("checkpoint_validation_with_forward_pass", "text_gen_type", "valid_data_paths", "test_data_paths"),
                *("data_types", "fp32_allreduce", "global_num_gpus", "override_lr_scheduler", "use_bnb_optimizer"),
            ),
            OWN,
        ),
        **dict.fromkeys(
            ("moe_num_experts", "mamba_selective_scan_fusion", "gmlp_attn_dim", "sliding_window_width", "moe_top_k"),
            OTHER,
        ),
        "use_bias_in_norms": "norms have a shift where LayerNorm is the norm, none where RMSNorm is",
        "mlp_multiple_of": "it is in the width of the MLP",
        **dict.fromkeys(
            (
                *("mamba_causal_conv_fusion", "mamba_inner_func_fusion", "te_columnparallel", "te_rowparallel"),
                *("te_layernorm_mlp", "te_mha", "te_fp8_format", "te_fp8_wgrad", "te_fp8_mha", "te_fp8_margin"),
                *("te_fp8_amax_history_len", "te_fp8_amax_compute_algo"),
                *("scaled_upper_triang_masked_softmax_fusion", "bias_gelu_fusion", "rope_fusion", "layernorm_fusion"),
                *("rmsnorm_fusion", "attention_config", "synchronize_each_layer", "partition_activations"),
            ),
            KERNELS,
        ),
        **dict.fromkeys(
            (
                *("data_impl", "vocab_file", "merge_file", "tokenizer_type", "distributed_backend", "steps_per_print"),
                *(
                    "wall_clock_breakdown",
                    "log_dir",
                    "eval_interval",
                    "eval_iters",
                    "launcher",
                    "hostfile",
                    "use_wandb",
                ),
                *("output_layer_init_method", "init_method", "output_layer_parallelism", "keep_last_n_checkpoints"),
                *(
                    "tokenizer-type",
                    "vocab-file",
                    "checkpoint",
                    "use_wandb",
                    "scaled_masked_softmax_fusion",
                    "use_bias_in_mlp",
                ),
            ),
            OWN,
        ),
    },
)
