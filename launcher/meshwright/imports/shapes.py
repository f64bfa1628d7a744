"""verl (trainer/config): what its keys are called in Megatron-LM."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.shape_values import first
from meshwright.imports.shaped import Shape, To

__all__ = ["VERL"]


_ACTOR = "actor_rollout_ref.actor."
_ULYSSES = "ulysses_sequence_parallel_size"
_ROLLOUTS = "actor_rollout_ref.rollout.n"


def _more(leaves: Leaves) -> dict[str, Any]:
    """A step takes every answer to each of its prompts (trainer/ppo/ray_trainer.py:1352); lengths of -1 say nothing."""
    said = {key: one.value for key, one in leaves.items()}
    prompts, answers = said.get(f"{_ACTOR}ppo_mini_batch_size"), said.get(_ROLLOUTS, 1)
    known = isinstance(prompts, int) and isinstance(answers, int)
    return {**({"global_batch_size": prompts * answers} if known else {}), **_packed(said)}


def _packed(said: Mapping[str, Any]) -> dict[str, Any]:
    """Batches of so many tokens a rank of context parallelism, as whole sequences of the longest length.

    verl/workers/actor/megatron_actor.py:806, dp_actor.py:552.
    """
    stated = (said.get(f"data.max_{part}_length") for part in ("prompt", "response"))
    lengths = [one for one in stated if isinstance(one, int) and one > 0]
    tokens = said.get(f"{_ACTOR}ppo_max_token_len_per_gpu")
    dynamic = said.get(f"{_ACTOR}use_dynamic_bsz") is True
    if not dynamic or not isinstance(tokens, int) or len(lengths) < 2:
        return {}
    splits = [said.get(f"{_ACTOR}{key}", 1) for key in ("megatron.context_parallel_size", _ULYSSES)]
    ranks = prod(split if isinstance(split, int) else 1 for split in splits)
    return {"micro_batch_size": max(1, tokens * ranks // sum(lengths))}


def _length(steps: Any) -> Any:
    return steps if steps > 0 else None


VERL = Shape(
    kind="verl configuration",
    model="actor_rollout_ref.model.path",
    more=_more,
    sections=(
        *(f"{_ACTOR}megatron", f"{_ACTOR}megatron.override_transformer_config", f"{_ACTOR}optim"),
        f"{_ACTOR}optim.override_optimizer_config",
    ),
    # trainer/config: actor, optim/megatron.yaml, engine/megatron.yaml
    defaults={
        "bf16": True,
        "use_distributed_optimizer": True,
        "sequence_parallel": True,
        "lr": 1e-3,
        "seed": 42,
        "weight_decay": 0.01,
        "adam_beta2": 0.999,
        "lr_decay_style": "constant",
    },
    keys={
        f"{_ACTOR}ppo_micro_batch_size_per_gpu": To("micro_batch_size"),
        f"{_ACTOR}ppo_mini_batch_size": To("global_batch_size"),
        f"{_ACTOR}optim.lr": To("lr", float),
        f"{_ACTOR}optim.weight_decay": To("weight_decay", float),
        f"{_ACTOR}optim.clip_grad": To("clip_grad", float),
        f"{_ACTOR}optim.betas": To("adam_beta1", first),
        f"{_ACTOR}optim.lr_warmup_steps": To("lr_warmup_iters", _length, usual=("_1",)),
        f"{_ACTOR}optim.lr_decay_steps": To("lr_decay_iters"),
        f"{_ACTOR}optim.total_training_steps": To("train_iters", _length, usual=("_1",)),
    },
    reasons={
        _ROLLOUTS: "answers to a prompt, each a sequence of the batch",
        f"{_ACTOR}use_dynamic_bsz": "read as whole sequences of the longest length a micro-batch",
        f"{_ACTOR}ppo_max_token_len_per_gpu": "read as whole sequences of the longest length a micro-batch",
        **dict.fromkeys(
            (
                *("actor_rollout_ref", "critic", "algorithm", "data", "trainer", "reward_model", "ray_kwargs"),
                *("custom_reward_function", "global_profiler", "reward", "rollout", "async_training", "trtllm"),
                *("hydra", "model_engine"),
            ),
            "only the actor's training is read, of reinforcement learning nothing else",
        ),
    },
)
