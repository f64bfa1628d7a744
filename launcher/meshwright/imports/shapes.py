"""gpt-neox, NeMo 1 and its launcher, Megatron-Bridge, verl: what their keys are called in Megatron-LM.

Sources: EleutherAI/gpt-neox megatron/neox_arguments; NVIDIA/NeMo examples/nlp/language_modeling/conf/
megatron_gpt_config.yaml; NVIDIA-NeMo/Megatron-Bridge training/config.py; verl trainer/config.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.shaped import Shape, To

__all__ = ["BRIDGE", "NEMO", "NEOX", "VERL"]


def _on(value: Any) -> Any:
    return True if value is True else None


def _first(value: Any) -> Any:
    return value[0]


def _second_beta(key: str) -> Callable[[Leaves], dict[str, Any]]:
    """It stands in a list with the first."""

    def of(leaves: Leaves) -> dict[str, Any]:
        betas = leaves[key].value if key in leaves else None
        return {"adam_beta2": betas[1]} if isinstance(betas, list) and len(betas) == 2 else {}

    return of


def _paths(value: Any) -> Any:
    return value if isinstance(value, list) else [str(value)]


_STYLES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "CosineAnnealing": "cosine"}
_STYLES |= {"WarmupPolicy": "constant", "WarmupHoldPolicy": "constant", "SquareRootAnnealing": "inverse-square-root"}
_POSITIONS = {"rotary": "rope", "learned": "learned_absolute", "none": "none", "alibi": "alibi", "rope": "rope"}
_KERNELS = "a choice of kernels, of which ours are Megatron's"
_OWN = "the framework's own: logging, launching, loading"


def _silu(kind: str) -> Any:
    """A flag of that name, where the activation is it."""
    return lambda value: True if str(value).replace("-", "_").removeprefix("fast_") == kind else None


NEOX = Shape(
    kind="gpt-neox configuration",
    more=_second_beta("optimizer.params.betas"),
    sections=("",),
    defaults={"hidden_dropout": 0.0, "attention_dropout": 0.0, "bias_gelu_fusion": False, "weight_decay": 0.1},
    keys={
        "pipe_parallel_size": To("pipeline_model_parallel_size", lambda size: max(1, size)),
        "model_parallel_size": To("tensor_model_parallel_size", lambda size: max(1, size)),
        "num_kv_heads": To("num_query_groups"),
        "intermediate_size": To("ffn_hidden_size"),
        "norm": To("normalization", {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}.__getitem__),
        "rms_norm_epsilon": To("layernorm_epsilon", float),
        "pos_emb": To("position_embedding_type", _POSITIONS.__getitem__),
        "rotary_pct": To("rotary_percent", float),
        "rotary_emb_base": To("rotary_base"),
        "no_weight_tying": To("untie_embeddings_and_output_weights", bool),
        "activation": To("swiglu", _silu("swiglu")),
        "use_bias_in_attn_linear": To("add_bias_linear", bool),
        "optimizer.type": To("optimizer", {"Adam": "adam", "AdamW": "adam", "OneBitAdam": "adam", "SGD": "sgd"}.get),
        "optimizer.params.lr": To("lr", float),
        "optimizer.params.betas": To("adam_beta1", _first),
        "optimizer.params.eps": To("adam_eps", float),
        "zero_optimization.stage": To("zero_stage"),
        "train_micro_batch_size_per_gpu": To("micro_batch_size"),
        "train_batch_size": To("global_batch_size"),
        "gradient_clipping": To("clip_grad", float),
        "warmup": To("lr_warmup_fraction", float),
        "lr_decay_style": To("lr_decay_style", _STYLES.__getitem__),
        "fp16.enabled": To("fp16", _on),
        "bf16.enabled": To("bf16", _on),
        "precision": To("bf16", lambda kind: True if kind == "bfloat16" else None),
        "checkpoint_activations": To("checkpoint_activations", _on),
        "checkpoint_num_layers": To("recompute_num_layers"),
        "checkpoint_factor": To("save_interval"),
        "data_path": To("data_path", _paths),
        "train_data_paths": To("data_path", _paths),
    },
    own={
        "gradient_accumulation_steps": ("training.microbatches", lambda steps: steps),
        "gpt_j_residual": ("model.parallel_residual", bool),
        "gpt_j_tied": ("model.shared_parallel_norm", bool),
    },
    reasons={
        **dict.fromkeys(("fp16", "zero_optimization", "optimizer", "comms_logger", "flops_profiler"), _OWN),
        **dict.fromkeys(
            (
                *("scaled_upper_triang_masked_softmax_fusion", "bias_gelu_fusion", "rope_fusion", "layernorm_fusion"),
                *("rmsnorm_fusion", "attention_config", "synchronize_each_layer", "partition_activations"),
            ),
            _KERNELS,
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
            _OWN,
        ),
    },
)

_SCHED = "model.optim.sched."


def _of_nemo(leaves: Leaves) -> dict[str, Any]:
    centred = "model.normalization" in leaves and leaves["model.normalization"].value == "layernorm1p"
    return _second_beta("model.optim.betas")(leaves) | ({"layernorm_zero_centered_gamma": True} if centred else {})


NEMO = Shape(
    kind="NeMo configuration",
    more=_of_nemo,
    sections=("model",),
    defaults={"bf16": False, "bias_gelu_fusion": False},
    keys={
        "trainer.precision": To("bf16", lambda kind: True if "bf16" in str(kind) else None),
        "trainer.max_steps": To("train_iters"),
        "trainer.gradient_clip_val": To("clip_grad", float),
        "trainer.log_every_n_steps": To("log_interval"),
        "trainer.val_check_interval": To("eval_interval", lambda value: None),
        "model.encoder_seq_length": To("seq_length"),
        "model.num_query_groups": To("num_query_groups"),
        "model.rotary_percentage": To("rotary_percent", float),
        "model.normalization": To(
            "normalization", {"layernorm1p": "LayerNorm", "layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}.__getitem__
        ),
        "model.activation": To("swiglu", _silu("swiglu")),
        "model.share_embeddings_and_output_weights": To("untie_embeddings_and_output_weights", lambda on: not on),
        "model.bias": To("add_bias_linear", bool),
        "model.activations_checkpoint_granularity": To("recompute_granularity"),
        "model.activations_checkpoint_method": To("recompute_method"),
        "model.activations_checkpoint_num_layers": To("recompute_num_layers"),
        "model.use_flash_attention": To("attention_backend", lambda on: "flash" if on else None),
        "model.fp8": To("fp8", lambda on: "hybrid" if on else None),
        "model.optim.name": To("use_distributed_optimizer", lambda name: True if "distributed" in str(name) else None),
        "model.optim.lr": To("lr", float),
        "model.optim.weight_decay": To("weight_decay", float),
        "model.optim.betas": To("adam_beta1", _first),
        f"{_SCHED}name": To("lr_decay_style", _STYLES.__getitem__),
        f"{_SCHED}warmup_steps": To("lr_warmup_iters"),
        f"{_SCHED}min_lr": To("min_lr", float),
        "model.data.data_prefix": To("data_path", lambda paths: [str(path) for path in paths] or None),
        "model.data.splits_string": To("split"),
        "model.data.num_workers": To("num_workers"),
    },
    reasons={
        **dict.fromkeys(("exp_manager", "run", "trainer", "name", "restore_from_path", "cluster", "hydra"), _OWN),
        **dict.fromkeys(("model.data", "model.optim", "model.tokenizer", "model.nsys_profile"), _OWN),
        **dict.fromkeys(("model.megatron_amp_O2", "model.mcore_gpt", "model.transformer_engine"), _KERNELS),
    },
)

BRIDGE = Shape(
    kind="Megatron-Bridge configuration",
    sections=(
        *("model", "train", "optimizer", "scheduler", "ddp", "dist", "dataset", "checkpoint", "logger", "rng"),
        *("tokenizer", "mixed_precision", "comm_overlap"),
    ),
    keys={
        "model.share_embeddings_and_output_weights": To("untie_embeddings_and_output_weights", lambda on: not on),
        "model.num_query_groups": To("num_query_groups"),
        "model.gated_linear_unit": To("swiglu", _on),
        "mixed_precision": To("bf16", lambda kind: True if "bf16" in str(kind) else None),
        "dataset.seq_length": To("seq_length"),
        "dataset.sequence_length": To("seq_length"),
        "ddp.grad_reduce_in_fp32": To("grad_reduce_in_bf16", lambda on: None if on else True),
    },
    reasons={"_target_": "it names a class of Python", "model.teacher": _OWN, "model.kd_config": _OWN, "peft": _OWN},
)

_ACTOR = "actor_rollout_ref.actor."
VERL = Shape(
    kind="verl configuration",
    sections=(f"{_ACTOR}megatron", f"{_ACTOR}megatron.override_transformer_config"),
    defaults={"bf16": True, "use_distributed_optimizer": True},
    keys={
        f"{_ACTOR}ppo_micro_batch_size_per_gpu": To("micro_batch_size"),
        f"{_ACTOR}ppo_mini_batch_size": To("global_batch_size"),
        f"{_ACTOR}optim.lr": To("lr", float),
        f"{_ACTOR}optim.weight_decay": To("weight_decay", float),
        f"{_ACTOR}optim.clip_grad": To("clip_grad", float),
        f"{_ACTOR}optim.lr_warmup_steps": To("lr_warmup_iters"),
        f"{_ACTOR}optim.total_training_steps": To("train_iters"),
    },
    reasons=dict.fromkeys(
        (
            "actor_rollout_ref",
            "critic",
            "algorithm",
            "data",
            "trainer",
            "reward_model",
            "custom_reward_function",
            "ray_kwargs",
        ),
        "only the actor's training is read, of reinforcement learning nothing else",
    ),
)
