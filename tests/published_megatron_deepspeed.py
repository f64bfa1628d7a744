"""Configurations of Megatron-DeepSpeed, Microsoft's fork and BigScience's, retyped as facts with their commits."""

from __future__ import annotations

from published import Published, bigscience, megatron
from published_forms import MOE, OWN_TOKENS, fork

__all__ = ["MEGATRON_DEEPSPEED"]

FORK = "deepspeedai/Megatron-DeepSpeed @4efb479"
SCIENCE = "bigscience-workshop/bigscience @9e64ede"

MEGATRON_DEEPSPEED = {
    "fork_llama2": Published(
        f"{FORK} examples_deepspeed/pretrain_llama2_distributed.sh",
        "pretrain_llama2_distributed.sh",
        megatron(
            8,
            "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --num-layers 24 --hidden-size 2048 "
            "--ffn-hidden-size 5504 --num-attention-heads 16 --num-key-value-heads 4 --micro-batch-size 4 "
            "--global-batch-size 32 --seq-length 2048 --max-position-embeddings 2048 --train-iters 250000 --lr 3e-4 "
            "--lr-warmup-iters 2000 --lr-decay-style cosine --min-lr 3e-5 --weight-decay 0.1 --clip-grad 1 --bf16 "
            "--no-query-key-layer-scaling --attention-dropout 0 --hidden-dropout 0 --use-rotary-position-embeddings "
            "--untie-embeddings-and-output-weights --swiglu --normalization rmsnorm --disable-bias-linear",
            "--deepspeed --deepspeed_config=ds.json --zero-stage=0 --no-pipeline-parallel",
        ).replace("rmsnorm", "RMSNorm"),
        {"parameters": 1.2, "layout": (2, 2, 2, 1), "zero": 0, "batch": (4, 32, 2048), "warmup": 2000},
        ("model.vocab=32000",),
    ),
    "fork_moe_128": Published(
        f"{FORK} examples_deepspeed/MoE/ds_pretrain_gpt_1.3B_MoE128.sh, 64 GPUs; 52B: Rajbhandari et al. 2022",
        "moe.sh",
        fork(
            "--num_nodes 8 --num_gpus 8",
            f"{OWN_TOKENS}{MOE}--tensor-model-parallel-size 1 --num-layers 24 --hidden-size 2048 "
            "--num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 8 "
            "--global-batch-size 512 --train-tokens 300000000000 --lr-decay-tokens 300000000000 "
            "--lr-warmup-tokens 375000000 --lr 1.2e-4 --min-lr 1.0e-6 --weight-decay 0.1 --fp16 --no-pipeline-parallel "
            "--checkpoint-activations --log-batch-size-to-tensorboard",
        ),
        {"parameters": 52.5, "layout": (1, 1, 64, 64), "zero": 0, "recompute": "full", "steps": 286_102, "warmup": 357},
    ),
    "fork_13b": Published(
        f"{FORK} examples_deepspeed/rebase/ds_pretrain_gpt_13B.sh",
        "ds_pretrain_gpt_13B.sh",
        fork(
            "--hostfile hosts --num_nodes 8 --num_gpus 8",
            f"{OWN_TOKENS}--tensor-model-parallel-size 4 --pipeline-model-parallel-size 8 --num-layers 40 "
            "--hidden-size 5120 --num-attention-heads 40 --seq-length 2048 --max-position-embeddings 2048 "
            "--micro-batch-size 2 --global-batch-size 1024 --train-tokens 300000000000 --lr-decay-tokens 260000000000 "
            "--lr-warmup-tokens 3000000000 --lr 1.0e-4 --min-lr 1.0e-6 --weight-decay 0.1 --fp16 --zero-stage 1 "
            "--init-method-std 0.008 --checkpoint-activations --data-impl mmap",
        ),
        {"parameters": 12.9, "layout": (4, 8, 2, 1), "zero": 1, "steps": 143_051, "warmup": 1430, "lr": 1e-4},
    ),
    "tr3_1b3": Published(
        f"{SCIENCE} train/tr3-1B3-baseline/tr3-1B3-modeling-baseline.slurm",
        "tr3.slurm",
        bigscience(
            16,
            4,
            "--tensor-model-parallel-size 4 --pipeline-model-parallel-size 4 --num-layers 24 --hidden-size 2048 "
            "--num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 16 "
            "--global-batch-size 1024 --train-samples 146_484_375 --lr 1e-4 --lr-warmup-samples 183_105 --fp16 "
            "--lr-decay-style cosine --checkpoint-activations --zero-stage 1 --tokenizer-type PretrainedFromHF "
            "--tokenizer-name-or-path t5-small",
        ),
        {"layout": (4, 4, 4, 1), "zero": 1, "steps": 143_051, "warmup": 178, "recompute": "full"},
        ("model.vocab=32128",),
    ),
    "tr7_alibi": Published(
        f"{SCIENCE} train/tr7-alibi/tr7c-1B3-modeling-alibi.slurm",
        "tr7.slurm",
        bigscience(
            16,
            4,
            "--tensor-model-parallel-size 4 --pipeline-model-parallel-size 4 --num-layers 24 --hidden-size 2048 "
            "--num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 8 "
            "--rampup-batch-size 32 32 2_000_000 --global-batch-size 512 --train-samples 73_242_187 --lr 2e-4 --fp16 "
            "--lr-warmup-samples 183_105 --lr-decay-style cosine --checkpoint-activations --zero-stage 1 "
            "--position-embedding-type alibi --vocab-file v --merge-file m --log-level info --codecarbon-dir out",
        ),
        {"parameters": 1.3, "layout": (4, 4, 4, 1), "steps": 152_973, "precision": "fp16"},
    ),
    "bloom_7b1": Published(
        f"{SCIENCE} train/tr11-176B-ml/smaller_models/tr11f-6B3-ml.slurm",
        "tr11f.slurm",
        bigscience(
            32,
            4,
            "--pp-partition-method 'type:transformer|embedding' --tensor-model-parallel-size 4 "
            "--pipeline-model-parallel-size 4 --num-layers 30 --hidden-size 4096 --num-attention-heads 32 --lr 1.2e-4 "
            "--seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 1 "
            "--rampup-batch-size 192 16 9_765_625 --global-batch-size 512 --train-samples 220_000_000 --fp16 "
            "--checkpoint-activations "
            "--embed-layernorm --position-embedding-type alibi --pad-vocab-size-to 250880 --zero-stage 0 "
            "--tokenizer-type PretrainedFromHF "
            "--lr-decay-style cosine --sync-tp-duplicated-parameters",
        )
        .replace("'type", "'\\''type")
        .replace("ding'", "ding'\\''"),
        {"parameters": 7.1, "layout": (4, 4, 8, 1), "zero": 0, "recompute": "full", "precision": "fp16"},
    ),
}
"""By name; each is one file, and what its users say beside it."""
