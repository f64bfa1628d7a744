"""Megatron-Bridge (training/config.py) and verl (trainer/config): what their keys are called in Megatron-LM."""

from __future__ import annotations

from meshwright.imports.shape_values import OWN, on
from meshwright.imports.shaped import Shape, To

__all__ = ["BRIDGE", "VERL"]


BRIDGE = Shape(
    kind="Megatron-Bridge configuration",
    defaults={"bf16": True, "use_distributed_optimizer": True},  # of all its recipes (recipes/common.py)
    sections=(
        *("model", "train", "optimizer", "scheduler", "ddp", "dist", "dataset", "checkpoint", "logger", "rng"),
        *("tokenizer", "mixed_precision", "comm_overlap"),
    ),
    keys={
        "model.share_embeddings_and_output_weights": To("untie_embeddings_and_output_weights", lambda on: not on),
        "model.num_query_groups": To("num_query_groups"),
        "model.gated_linear_unit": To("swiglu", on),
        "mixed_precision": To("bf16", lambda kind: True if "bf16" in str(kind) else None),
        "dataset.seq_length": To("seq_length"),
        "dataset.sequence_length": To("seq_length"),
        "ddp.grad_reduce_in_fp32": To("grad_reduce_in_bf16", lambda on: None if on else True),
    },
    reasons={
        "_target_": "it names a class of Python",
        **dict.fromkeys(("model.teacher", "model.kd_config", "peft", "profiling", "validation", "logger"), OWN),
        **dict.fromkeys(("dataset", "checkpoint", "ddp", "model.freeze_language_model", "optimizer"), OWN),
    },
)

_ACTOR = "actor_rollout_ref.actor."
VERL = Shape(
    kind="verl configuration",
    model="actor_rollout_ref.model.path",
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
            "global_profiler",
        ),
        "only the actor's training is read, of reinforcement learning nothing else",
    ),
)
