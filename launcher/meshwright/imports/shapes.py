"""Megatron-Bridge (training/config.py) and verl (trainer/config): what their keys are called in Megatron-LM."""

from __future__ import annotations

from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.shape_values import OWN, on, switch
from meshwright.imports.shaped import Shape, To

__all__ = ["BRIDGE", "VERL"]


def _bf16(name: object) -> bool | None:
    """Of its recipes of precision (training/mixed_precision.py) the plain one: those of 8 bits are not read."""
    return True if str(name).replace("-", "_") in ("bf16_mixed", "bf16") else None


def _of_bridge(leaves: Leaves) -> dict[str, Any]:
    name = str(leaves["mixed_precision"].value) if "mixed_precision" in leaves else ""
    return {"fp16": True, "bf16": False} if name.replace("-", "_") in ("16_mixed", "fp16_mixed") else {}


BRIDGE = Shape(
    kind="Megatron-Bridge configuration",
    more=_of_bridge,
    defaults={"bf16": True, "use_distributed_optimizer": True},  # of all its recipes (recipes/common.py)
    sections=(
        *("model", "train", "optimizer", "scheduler", "ddp", "dist", "dataset", "checkpoint", "logger", "rng"),
        *("tokenizer", "mixed_precision", "comm_overlap"),
    ),
    keys={
        "model.share_embeddings_and_output_weights": To(
            "untie_embeddings_and_output_weights", lambda on: not switch(on)
        ),
        "model.num_query_groups": To("num_query_groups"),
        "model.gated_linear_unit": To("swiglu", on),
        "mixed_precision": To("bf16", _bf16, beside=("16_mixed", "fp16_mixed")),
        "dataset.seq_length": To("seq_length"),
        "dataset.sequence_length": To("seq_length"),
        "ddp.grad_reduce_in_fp32": To("grad_reduce_in_bf16", lambda on: None if on else True, usual=("true",)),
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
