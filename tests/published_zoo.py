"""Megatron-MoE-ModelZoo's files, retyped as facts: a table of layouts, models' flags, and scripts of best practice."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ZOO", "laid_down"]

ZOO = "yanring/Megatron-MoE-ModelZoo @e865051"

RUNTIME = """#! /bin/bash
declare -A BENCHMARKING_MODEL_CONFIGS=(
    # MODEL:                TP PP EP CP VPP MBS GBS LAYERS DISPATCHER GROUPED_GEMM NNODES RUN_TIME PRETRAIN SLEN DATASET
    [Mixtral-8x7B]="1  4  8  1  8   1   256   32    alltoall     true       8     00:20:00    0     4096  Custom"
    [DeepSeek-V3]="1  16 64 1  1   1   8192  61    flex         true       128   00:40:00    0     4096  C  4  1"
    [Qwen3-30B-A3B]="1  1  8  1  1   1   256   48    alltoall     true       4     00:20:00    0     4096  Custom"
    [Qwen3-235B-A22B]="2  8  32 1  4   1   256   96    flex         true       32    00:20:00    0     4096  Custom"
)
"""
COMMON = """ENV_VARS:
  NVTE_ALLOW_NONDETERMINISTIC_ALGO: 1
  PYTORCH_CUDA_ALLOC_CONF: expandable_segments:True
  PYTHONWARNINGS: ignore
MODEL_ARGS:
  --tensor-model-parallel-size: ${TP}
  --pipeline-model-parallel-size: ${PP}
  --num-layers-per-virtual-pipeline-stage: ${LAYERS_PER_VP}
  --expert-model-parallel-size: ${EP}
  --context-parallel-size: ${CP}
  --expert-tensor-parallel-size: 1
  --use-distributed-optimizer: true
  --overlap-grad-reduce: true
  --overlap-param-gather: true
  --sequence-parallel: true
  --disable-bias-linear: true
  --micro-batch-size: ${MBS}
  --global-batch-size: ${GBS}
  --train-samples: 268554688
  --cross-entropy-loss-fusion: true
  --cross-entropy-fusion-impl: te
  --seq-length: ${SEQ_LEN}
  --position-embedding-type: rope
  --normalization: RMSNorm
  --swiglu: true
  --untie-embeddings-and-output-weights: true
  --attention-dropout: 0.0
  --hidden-dropout: 0.0
  --group-query-attention: true
  --num-query-groups: 4
  --kv-channels: 128
  --qk-layernorm: true
  --rotary-base: 1000000
  --max-position-embeddings: 40960
  --make-vocab-size-divisible-by: 1187
  --tokenizer-type: HuggingFaceTokenizer
  --tokenizer-model: Qwen/Qwen3-30B-A3B
  --lr: 1.2e-4
  --min-lr: 1.2e-5
  --lr-decay-style: cosine
  --moe-router-topk: 8
  --moe-router-pre-softmax: false # unlike Qwen2's
  --moe-grouped-gemm: ${MOE_GROUPED_GEMM}
  --moe-token-dispatcher-type: ${MOE_TOKEN_DISPATCHER}
  --moe-router-dtype: fp32
  --num-experts: 128
  --finetune: true
  --load: ${LOAD_PATH}
  --bf16: true
"""
QWEN3_30B = f"""{COMMON}  --num-layers: 48
  --hidden-size: 2048
  --ffn-hidden-size: 6144
  --num-attention-heads: 32
  --moe-ffn-hidden-size: 768
"""
QWEN3_235B = f"""{COMMON}  --num-layers: 94
  --hidden-size: 4096
  --ffn-hidden-size: 12288
  --num-attention-heads: 64
  --moe-ffn-hidden-size: 1536
  --account-for-embedding-in-pipeline-split: true
  --account-for-loss-in-pipeline-split: true
"""
RUN_30B = """export MODEL=Qwen3-30B-A3B
export OUTPUT_PATH=
export MBS=1
export SEQ_LEN=4096
export MOE_GROUPED_GEMM=true

# experts and data
PR=fp8 PP=1 VPP=1 TP=1 EP=8 NNODES=4 bash ./sbatch_benchmarking.sh --moe-router-force-load-balancing

COMMENT=again PR=fp8 PP=1 VPP=1 TP=1 EP=8 MBS=4 NNODES=4 bash ./sbatch_benchmarking.sh \\
  --moe-router-force-load-balancing --recompute-granularity full --recompute-method uniform --recompute-num-layers 1

PR=fp8 PP=1 TP=1 EP=8 NNODES=1 bash ./sbatch_benchmarking.sh \\
  --recompute-granularity selective --recompute-modules moe_act layernorm
"""
RUN_235B = """export MODEL=${MODEL:-Qwen3-235B-A22B}
export MBS=1
export SEQ_LEN=4096
export MOE_GROUPED_GEMM=true
export PR=${PR:-"bf16"}
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True NCCL_GRAPH_REGISTER=0 DISPATCHER=deepep A2A_OVERLAP=1 TP=2 PP=8 \\
  VPP=4 EP=32 NNODES=32 GBS=2048 bash ./sbatch_benchmarking.sh --recompute-granularity selective \\
  --recompute-modules moe_act layernorm --moe-router-force-load-balancing --cuda-graph-impl transformer_engine \\
  --cuda-graph-scope moe_router moe_preprocess
"""
FILES = {
    "runtime_configs/benchmarking/runtime.conf": RUNTIME,
    "model_configs/benchmarking/Qwen3-30B-A3B.yaml": QWEN3_30B,
    "model_configs/benchmarking/Qwen3-235B-A22B.yaml": QWEN3_235B,
    "best_practice/qwen3/run_30b.sh": RUN_30B,
    "best_practice/qwen3/run_h100_235b.sh": RUN_235B,
    "sbatch_benchmarking.sh": "TRAINING_PARAMS=$(yq '.MODEL_ARGS' $1)\nsbatch --nodes=$NNODES\n",
}


def laid_down(folder: Path) -> Path:
    """The files as their repository holds them."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
