"""verl (trainer/config): what its keys are called in Megatron-LM."""

from __future__ import annotations

from meshwright.imports.shaped import Shape, To

__all__ = ["VERL"]


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
