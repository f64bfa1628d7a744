"""Flags that Megatron-LM no longer has, or that its forks have, and what they meant.

Places: Megatron-LM megatron/training/arguments.py of the version named; Megatron-DeepSpeed megatron/arguments.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.imports import mindspeed

__all__ = ["FORMER", "GONE", "OTHER_MODELS"]

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
    "--pp-partition-method": ("pp_partition_method", str),  # Megatron-DeepSpeed
    "--use-flash-attn-triton": ("attention_backend", "flash"),  # Megatron-DeepSpeed
    "--num-key-value-heads": ("num_query_groups", int),  # Megatron-DeepSpeed
    "--n-head-kv": ("num_query_groups", int),  # Pai-Megatron-Patch: Falcon
    "--rotary-position-embeddings-theta": ("rotary_base", int),  # Megatron-DeepSpeed
    "--moe-train-capacity-factor": ("moe_expert_capacity_factor", float),  # Megatron-DeepSpeed
    "--topk": ("moe_router_topk", int),  # Megatron-DeepSpeed
    "--expert-interval": ("expert_interval", int),  # Megatron-DeepSpeed
    "--cpu-optimizer": ("optimizer_cpu_offload", True),  # Megatron-DeepSpeed
    "--pipe-parallel-size": ("pipeline_model_parallel_size", int),  # Megatron-DeepSpeed of 2021
    "--train-tokens": ("train_tokens", int),  # Megatron-DeepSpeed
    "--lr-decay-tokens": ("lr_decay_tokens", int),  # Megatron-DeepSpeed
    "--lr-warmup-tokens": ("lr_warmup_tokens", int),  # Megatron-DeepSpeed
    "--intermediate-size": ("ffn_hidden_size", int),  # Pai-Megatron-Patch: LLaMA
    "--use-llama2-rotary-position-embeddings": ("position_embedding_type", "rope"),  # Pai-Megatron-Patch
    "--use-alibi-mask": ("position_embedding_type", "alibi"),  # Pai-Megatron-Patch: Baichuan
    "--geglu": ("glu_activation", "geglu"),  # Pai-Megatron-Patch: GLM
    "--use-alibi-position-embeddings": ("position_embedding_type", "alibi"),  # bigcode's, GLM's
    "--xielu": ("xielu", True),  # Swiss AI's Megatron-LM
    "--use-bnb-optimizer": ("optimizer", "adam"),  # bigscience: Adam, its states in 8 bits
    **mindspeed.FLAGS,
}
"""By flag: the argument and the value it stands for now; a type: the number behind it."""

_NOTHING = "no effect in megatron-core 0.19.2"
_WAY = "what it asked for is now the only way (megatron-core 0.19.2)"
_DEEPSPEED = "Megatron-DeepSpeed's, which neither backend is"

_LOG = "what it logs, ours log in their own way"
_DATA = "how a fork reads its data; training.data says where ours are"
_START = "how a fork loads or starts; ours is launch and training.logging.load"

GONE: Mapping[str, str] = {
    **mindspeed.GONE,
    **dict.fromkeys(("--DDP-impl", "--use-contiguous-buffers-in-local-ddp", "--use-mcore-models"), _WAY),
    **dict.fromkeys(
        (
            *("--no-contiguous-buffers-in-local-ddp", "--lazy-mpu-init", "--scattered-embeddings"),
            *("--no-async-tensor-model-parallel-allreduce", "--split-transformers", "--no-query-key-layer-scaling"),
            "--abort-on-unmet-fused-kernel-constraints",
        ),
        _NOTHING,
    ),
    "--data-impl": "indexed datasets are memory-mapped (megatron-core 0.19.2)",
    "--use-dist-ckpt": "--ckpt-format torch_dist says so, and is the default",
    **dict.fromkeys(
        (
            *("--deepspeed", "--deepspeed_config", "--deepspeed-activation-checkpointing", "--no-pipeline-parallel"),
            *("--checkpoint-in-cpu", "--partition-activations", "--synchronize-each-layer"),
            *("--contigious-checkpointing", "--zero-reduce-scatter", "--zero-contigious-gradients"),
            *("--zero-reduce-bucket-size", "--zero-allgather-bucket-size", "--create-moe-param-group"),
            *(
                "--moe-min-capacity",
                "--moe-eval-capacity-factor",
                "--universal-checkpoint",
                "--sync-tp-duplicated-parameters",
            ),
            *("--enable-zbh1-pipeline", "--enable-zbh1-exact-semantics", "--ds-sequence-parallel-fpdt"),
            *("--ds-sequence-parallel-fpdt-chunk-size", "--ds-sequence-parallel-fpdt-offloading"),
        ),
        _DEEPSPEED,
    ),
    **dict.fromkeys(
        (
            *("--log-batch-size-to-tensorboard", "--log-optimizer-states-to-tensorboard", "--structured-logs"),
            *("--structured-logs-dir", "--codecarbon-dir", "--log-level", "--log-level-replica", "--use-wandb"),
            *("--wandb-name", "--wandb-group", "--wandb-key", "--wandb-entity-name", "--wandb-project-name"),
        ),
        _LOG,
    ),
    **dict.fromkeys(
        (
            *("--train-weighted-split-paths", "--valid-weighted-split-paths", "--test-weighted-split-paths"),
            *("--train-weighted-split-paths-path", "--valid-weighted-split-paths-path", "--valid-num-workers"),
            *("--dataset", "--train-data", "--valid-data", "--max-padding-length", "--epochs", "--train-mode"),
            *("--tokenizer-name-or-path", "--patch-tokenizer-type", "--tokenizer-file", "--tokenizer-path"),
            *("--data-path2", "--train-data-exact-num-epochs", "--train-data-path", "--valid-data-path"),
        ),
        _DATA,
    ),
    **dict.fromkeys(
        (
            *("--reset-progress", "--reset-iteration", "--no-load-lr-state", "--keep-last", "--kill-switch-path"),
            *("--use-mpi", "--export-force-local-attention", "--enable-gpt-oss"),
        ),
        _START,
    ),
    "--qknorm-impl": "which kernel normalizes queries and keys; ours are Megatron's",
    **dict.fromkeys(("--goldfish-loss", "--goldfish-k", "--goldfish-h"), "a loss without some tokens; ours takes all"),
    "--extra-vocab-size": "tokens above the tokenizer's; the size of the vocabulary is what is kept",
}
"""By flag: why nothing of it is carried."""

OTHER_MODELS = frozenset(
    (
        *mindspeed.OTHER_MODELS,
        *(
            "--mlp-type",
            "--mos",
            "--kd",
            "--attention-head-type",
            "--position-encoding-2d",
            "--mup",
            "--mup-input-mult",
        ),
        *("--mup-attn-mult", "--hybrid-attention-ratio", "--hybrid-mlp-ratio", "--linear-attention-type", "--bitfit"),
        *("--disable-bias-linear-fc", "--disable-bias-attn-fc", "--use-gated-attention", "--post-self-attn-layernorm"),
        *("--post-mlp-layernorm", "--language-model-type", "--vision-tower", "--patch-size", "--loss-on-targets-only"),
    )
)
"""Flags of forks that make another model than we describe."""
