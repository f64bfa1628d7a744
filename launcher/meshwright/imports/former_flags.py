"""Flags that Megatron-LM no longer has, or that its forks have, and what they meant.

Places: Megatron-LM megatron/training/arguments.py of the version named; Megatron-DeepSpeed megatron/arguments.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["FORMER", "GONE"]

FORMER: Mapping[str, tuple[str, Any]] = {
    "--model-parallel-size": ("tensor_model_parallel_size", int),  # v2.0
    "--batch-size": ("micro_batch_size", int),  # v1.1
    "--use-rotary-position-embeddings": ("position_embedding_type", "rope"),  # deprecated, still read
    "--use-flash-attn": ("attention_backend", "flash"),  # v2; core 0.10 has --attention-backend
    "--use-flash-attn-v2": ("attention_backend", "flash"),  # Megatron-DeepSpeed
    "--use-flash-attn-v1": ("attention_backend", "flash"),  # Megatron-DeepSpeed
    "--recompute-activations": ("recompute_granularity", "selective"),  # the same, validate_args
    "--checkpoint-activations": ("recompute_granularity", "full"),  # v2.x
    "--activations-checkpoint-method": ("recompute_method", "uniform"),  # v2.5
    "--checkpoint-num-layers": ("recompute_num_layers", int),  # v2.x
    "--activations-checkpoint-num-layers": ("recompute_num_layers", int),  # v2.5
    "--fp8-hybrid": ("fp8", "hybrid"),  # core 0.2
    "--fp8-e4m3": ("fp8", "e4m3"),  # core 0.2
    "--ds-sequence-parallel-size": ("context_parallel_size", int),  # Megatron-DeepSpeed: Ulysses
    "--moe-expert-parallel-size": ("expert_model_parallel_size", int),  # Megatron-DeepSpeed
    "--moe-loss-coeff": ("moe_aux_loss_coeff", float),  # Megatron-DeepSpeed
    "--glu-activation": ("glu_activation", str),  # Megatron-DeepSpeed
    "--zero-stage": ("zero_stage", int),  # Megatron-DeepSpeed
    "--embed-layernorm": ("embed_layernorm", True),  # bigscience's Megatron-DeepSpeed
    "--pad-vocab-size-to": ("padded_vocab_size", int),  # bigscience's Megatron-DeepSpeed
}
"""By flag: the argument and the value it stands for now; a type: the number behind it."""

_NOTHING = "no effect in megatron-core 0.19.2"
_WAY = "what it asked for is now the only way (megatron-core 0.19.2)"
_DEEPSPEED = "Megatron-DeepSpeed's, which neither backend is"

GONE: Mapping[str, str] = {
    "--DDP-impl": _WAY,
    "--use-contiguous-buffers-in-local-ddp": _WAY,
    "--no-contiguous-buffers-in-local-ddp": _NOTHING,
    "--lazy-mpu-init": _NOTHING,
    "--data-impl": "indexed datasets are memory-mapped (megatron-core 0.19.2)",
    "--no-async-tensor-model-parallel-allreduce": _NOTHING,
    "--use-mcore-models": _WAY,
    "--use-dist-ckpt": "--ckpt-format torch_dist says so, and is the default",
    "--scattered-embeddings": _NOTHING,
    "--split-transformers": _NOTHING,
    "--deepspeed": _DEEPSPEED,
    "--deepspeed_config": _DEEPSPEED,
    "--deepspeed-activation-checkpointing": _DEEPSPEED,
    "--no-pipeline-parallel": _DEEPSPEED,
    "--pp-partition-method": _DEEPSPEED,
}
"""By flag: why nothing of it is carried."""
