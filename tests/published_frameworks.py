"""Configurations of frameworks around Megatron-LM and the Trainer, retyped as facts with their commits."""

from __future__ import annotations

from published import Published

SWIFT = "modelscope/ms-swift @3602360"
PRIMUS = "AMD-AGI/Primus @fd1eeab"

TUNED = """#!/bin/bash
PYTORCH_CUDA_ALLOC_CONF='expandable_segments:True' \\
NPROC_PER_NODE={gpus} {nodes} \\
megatron {kind} --model {model} --save_safetensors true --dataset alpaca --micro_batch_size {micro} \\
  --global_batch_size 16 --recompute_granularity full --recompute_method uniform --recompute_num_layers 1 \\
  --finetune true --cross_entropy_loss_fusion true --lr 1e-5 --lr_warmup_fraction 0.05 --min_lr 1e-6 \\
  --num_train_epochs 1 --output_dir out --save_steps 100 --max_length {length} --dataloader_num_workers 4 \\
  --no_save_optim true --no_save_rng true --sequence_parallel true {layout}
"""
SWIFT_TRAINER = """nnodes=2
nproc_per_node=4
torchrun --master_port 29500 --nproc_per_node=$nproc_per_node --nnodes=$nnodes --node_rank=0 --master_addr=10.0.0.1 \\
  swift/cli/sft.py --model Qwen/Qwen2.5-7B-Instruct --tuner_type full --dataset alpaca --torch_dtype bfloat16 \\
  --num_train_epochs 1 --per_device_train_batch_size 1 --learning_rate 1e-5 --max_length 8192 \\
  --gradient_accumulation_steps $(expr 32 / $nproc_per_node / $nnodes) --warmup_ratio 0.05 --deepspeed zero2
"""
EXPERIMENT = """work_group: ${{PRIMUS_TEAM:amd}}
modules:
  pre_trainer:
    framework: {framework}
    config: pre_trainer.yaml
    model: {model}.yaml
    overrides:
      stderr_sink_level: DEBUG
"""
PRIMUS_MEGATRON = """      train_iters: 50
      micro_batch_size: 2
      global_batch_size: 128
      seq_length: ${PRIMUS_SEQ_LENGTH:8192}
      max_position_embeddings: 8192
      lr: 1.0e-5
      min_lr: 0.0
      lr_warmup_iters: 2
      lr_decay_style: cosine
      weight_decay: 0.1
      tensor_model_parallel_size: ${PRIMUS_TP:1}
      overlap_grad_reduce: true
      overlap_param_gather: true
      mock_data: true
      enable_primus_turbo: true
"""
PRIMUS_TITAN = """      lr_scheduler: {warmup_steps: 10}
      training: {local_batch_size: 4, seq_len: 8192, steps: 50}
      activation_checkpoint: {mode: none}
      primus_turbo: {enable_primus_turbo: true}
"""
K2V2 = """#!/bin/bash
#SBATCH --job-name=k2v2-stage1
#SBATCH --nodes=400
#SBATCH --ntasks=400
#SBATCH --cpus-per-task=96
#SBATCH --gpus-per-task=8
#SBATCH --mem=0
#SBATCH --gres=gpu:8
#SBATCH --error=logs/%j.err
#SBATCH --exclusive
#SBATCH --distribution=block:block
export CUDA_DEVICE_MAX_CONNECTIONS=1
nodes=( $( scontrol show hostnames $SLURM_JOB_NODELIST ) )
nodes_array=($nodes)
head_node=${nodes_array[0]}
head_node_ip=$(srun --nodes=1 --ntasks=1 -w "$head_node" hostname --ip-address)
TP=8
DISTRIBUTED=(--nproc_per_node 8 --nnodes 400 --rdzv_id $RANDOM --rdzv_backend c10d --rdzv_endpoint $head_node_ip:29500)
MODEL=(
    --disable-bias-linear --seq-length 8192 --max-position-embeddings 8192 --num-layers 80 --hidden-size 8192
    --ffn-hidden-size 28672 --num-attention-heads 64 --group-query-attention --num-query-groups 8
    --init-method-std 0.01 --attention-dropout 0.0 --hidden-dropout 0.0 --normalization RMSNorm
    --position-embedding-type rope --rotary-base 500000 --swiglu --untie-embeddings-and-output-weights
    --no-position-embedding --apply-layernorm-1p
)
TRAINING=(
    --micro-batch-size 4
    --global-batch-size 1600   # of 400 replicas
    --seed 2 --lr 1.5e-5 --adam-beta1 0.9 --adam-beta2 0.95 --train-iters 135000 --lr-decay-iters 135000
    --lr-decay-style cosine --min-lr 6.0e-6 --lr-warmup-iters 500 --weight-decay 0.05 --clip-grad 1.0
    --overlap-grad-reduce --overlap-param-gather --recompute-granularity 'full' --recompute-method 'uniform'
    --recompute-num-layers 1 --attention-backend flash --bf16
    --tensor-model-parallel-size $TP --pipeline-model-parallel-size 1 --sequence-parallel --use-distributed-optimizer
)
srun -l torchrun ${DISTRIBUTED[@]} pretrain_gpt.py ${MODEL[@]} ${TRAINING[@]}
"""
MINDSPEED = """#!/bin/bash
export CUDA_DEVICE_MAX_CONNECTIONS=1
TP={tp}
PP={pp}
DISTRIBUTED="
    --nproc_per_node {gpus} \\
    --nnodes {nodes} \\
    --node_rank $NODE_RANK \\
    --master_addr node0 \\
    --master_port 6000
"
GPT="
    --use-mcore-models --use-flash-attn --use-fused-rotary-pos-emb --use-fused-swiglu --use-fused-rmsnorm \\
    --tensor-model-parallel-size ${{TP}} --pipeline-model-parallel-size ${{PP}} --sequence-parallel \\
    --use-distributed-optimizer --tokenizer-type PretrainedFromHF --seq-length 32768 \\
    --max-position-embeddings 32768 --micro-batch-size 1 --disable-bias-linear --swiglu \\
    --position-embedding-type rope --use-rotary-position-embeddings --normalization RMSNorm --norm-epsilon 1e-6 \\
    --untie-embeddings-and-output-weights --attention-dropout 0.0 --hidden-dropout 0.0 --bf16 --lr 1.25e-6 \\
    --lr-decay-style cosine --min-lr 1.25e-7 --weight-decay 1e-1 --clip-grad 1.0 --train-iters 2000 \\
    --group-query-attention --swap-attention --reuse-fp32-param {more}
"
python -m torch.distributed.launch $DISTRIBUTED pretrain_gpt.py $GPT | tee logs/train.log
"""
MINDSPEED_QWEN = (
    "--context-parallel-size 4 --context-parallel-algo megatron_cp_algo --num-layer-list 17,20,22,21 --num-layers 80 "
    "--hidden-size 8192 --num-attention-heads 64 --num-query-groups 8 --ffn-hidden-size 29568 --add-qkv-bias "
    "--rotary-base 1000000 --vocab-size 152064 --make-vocab-size-divisible-by 1 --global-batch-size 32"
)
TOGETHER = """#!/bin/bash
#SBATCH --nodes=512 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=36
LENGTH=16384
SIZE=(
\t--num-layers 32
\t--hidden-size 4096
\t--ffn-hidden-size 21504  # its activation has no gate
\t--num-attention-heads 32 --group-query-attention --num-query-groups 8 --max-position-embeddings $LENGTH
\t--position-embedding-type rope --rotary-base 2000000 --use-rope-scaling --rope-scaling-factor 8
\t--normalization RMSNorm --xielu --qk-layernorm --qknorm-impl apex --untie-embeddings-and-output-weights
)
STEPS=(
\t--micro-batch-size 1 --global-batch-size 512 --train-iters 6930 --disable-bias-linear --bf16 --vocab-size 131072
\t--attention-dropout 0.0 --hidden-dropout 0.0 --clip-grad 0.1 --lr 0.000011 --min-lr 0.000011
\t--lr-decay-style WSD --lr-wsd-decay-style linear --lr-wsd-decay-iters 0 --lr-warmup-iters 150
\t--tensor-model-parallel-size 4 --sequence-parallel --use-distributed-optimizer --goldfish-loss --goldfish-k 50
)
if [ "$MOCK" = true ]; then DATA="--mock-data"; else DATA="--data-path $(python3 config.py -p $SETS)"; fi
PREFIX="numactl --membind=0-3"
CMD="python3 $ROOT/pretrain_gpt.py \\
    ${SIZE[@]} \\
    --seq-length $LENGTH ${STEPS[@]} $DATA"
srun --cpus-per-task $SLURM_CPUS_PER_TASK -lu bash -c "RANK=\\$SLURM_PROCID LOCAL_RANK=\\$SLURM_LOCALID $PREFIX $CMD"
"""
DISTILLED = """deepspeed_config: {deepspeed_multinode_launcher: standard, zero3_init_flag: true, zero_stage: 3}
distributed_type: DEEPSPEED
downcast_bf16: 'no'
mixed_precision: bf16
num_machines: 1
num_processes: 8
"""
BRIDGE_PERF = """model: {tensor_model_parallel_size: 2, sequence_parallel: true, seq_length: 8192}
train: {train_iters: 50, global_batch_size: 128, micro_batch_size: 1}
mixed_precision: bf16_with_mxfp8_mixed
comm_overlap: {tp_comm_overlap: false, overlap_grad_reduce: true, overlap_param_gather: true}
"""

FACTORY = """model_name_or_path: Qwen/Qwen3-30B-A3B-Instruct-2507
do_train: true
stage: sft
finetuning_type: full
dataset: alpaca_en_demo
cutoff_len: 4096
output_dir: saves
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
max_steps: 200
learning_rate: 3e-6
warmup_ratio: 0.1
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
bf16: true
pipeline_model_parallel_size: 2
sequence_parallel: false
virtual_pipeline_model_parallel_size: 1
overlap_param_gather: true
overlap_grad_reduce: true
moe_grouped_gemm: true
moe_token_dispatcher_type: alltoall
expert_model_parallel_size: 2
recompute_granularity: full
"""
AXOLOTL_FSDP2 = """base_model: openai/gpt-oss-20b
sequence_len: 4096
gradient_accumulation_steps: 2
micro_batch_size: 1
max_steps: 100
optimizer: adamw_torch_8bit
lr_scheduler: constant_with_warmup
learning_rate: 2e-5
bf16: true
gradient_checkpointing: true
fsdp_version: 2
fsdp_config: {offload_params: true, state_dict_type: SHARDED_STATE_DICT, reshard_after_forward: true}
"""

FRAMEWORKS = {
    "swift_qwen2_5_7b": Published(
        f"{SWIFT} examples/megatron/sft.sh",
        "sft.sh",
        TUNED.format(
            gpus=2,
            nodes="",
            kind="sft",
            model="Qwen/Qwen2.5-7B-Instruct",
            micro=16,
            length=2048,
            layout="--tensor_model_parallel_size 2",
        ),
        {"parameters": 7.6, "layout": (2, 1, 1, 1), "batch": (16, 16, 2048), "recompute": "full", "lr": 1e-5},
        ("training.steps=100",),
    ),
    "swift_qwen3_30b": Published(
        f"{SWIFT} examples/megatron/moe/qwen3_moe.sh, on two nodes",
        "qwen3_moe.sh",
        TUNED.format(
            gpus=8,
            nodes="NNODES=$WORLD_SIZE",
            kind="sft",
            model="Qwen/Qwen3-30B-A3B-Base",
            micro=1,
            length=8192,
            layout="--pipeline_model_parallel_size 2 --expert_model_parallel_size 8 --moe_permute_fusion true",
        ),
        {"parameters": 30.5, "layout": (1, 2, 8, 8), "batch": (1, 16, 8192), "zero": 1, "precision": "bf16"},
        ("training.steps=100",),
        {"WORLD_SIZE": "2"},
    ),
    "swift_zero2": Published(
        f"{SWIFT} examples/train/multi-node/torchrun/train_node1.sh",
        "train_node1.sh",
        SWIFT_TRAINER,
        {"parameters": 7.6, "layout": (1, 1, 8, 1), "zero": 2, "batch": (1, 32, 8192), "backend": "deepspeed"},
        ("training.steps=100",),
    ),
    "primus_llama31_8b": Published(
        f"{PRIMUS} examples/megatron/configs/MI300X/llama3.1_8B-BF16-pretrain.yaml",
        "llama3.1_8B.yaml",
        EXPERIMENT.format(framework="megatron", model="llama3.1_8B") + PRIMUS_MEGATRON,
        {"parameters": 8.0, "layout": (1, 1, 8, 1), "zero": 1, "batch": (2, 128, 8192), "steps": 50, "lr": 1e-5},
        ("cluster.gpus=8",),
    ),
    "primus_titan_llama31_8b": Published(
        f"{PRIMUS} examples/torchtitan/configs/MI300X/llama3.1_8B-BF16-pretrain.yaml",
        "llama3.1_8B.yaml",
        EXPERIMENT.format(framework="torchtitan", model="llama3.1_8B") + PRIMUS_TITAN,
        {"parameters": 8.0, "layout": (1, 1, 8, 1), "zero": 3, "batch": (4, 32, 8192), "steps": 50, "warmup": 10},
        ("cluster.gpus=8",),
    ),
    "k2v2_mid_train": Published(
        "LLM360/k2v2_train @871c086 mid-train/k2v2_mid_train_stage1.sh",
        "k2v2_mid_train_stage1.sh",
        K2V2,
        {"parameters": 72.6, "layout": (8, 1, 400, 1), "batch": (4, 1600, 8192), "steps": 135000, "recompute": "full"},
        ("model.vocab=250112",),
    ),
    "mindspeed_qwen25_72b": Published(
        "Ascend/MindSpeed-LLM @c77308a examples/mcore/qwen25/pretrain_qwen25_72b_32k_ptd.sh",
        "pretrain_qwen25_72b_32k_ptd.sh",
        MINDSPEED.format(tp=8, pp=4, gpus=8, nodes=16, more=MINDSPEED_QWEN),
        {"parameters": 72.7, "layout": (8, 4, 1, 1), "batch": (1, 32, 32768), "zero": 1, "steps": 2000},
    ),
    "apertus_8b_long": Published(
        "swiss-ai/pretrain-code @531cc8b long_context/training_scripts/8B/8b-16k.sh, with AdamW and its tokens' count",
        "8b-16k.sh",
        TOGETHER,
        {"parameters": 8.1, "layout": (4, 1, 512, 1), "batch": (1, 512, 16384), "activation": "xielu", "warmup": 150},
    ),
    "bridge_mxfp8": Published(
        "NVIDIA-NeMo/Megatron-Bridge @067f987 training/mixed_precision.py: bf16_with_mxfp8_mixed above a recipe",
        "overrides.yaml",
        BRIDGE_PERF,
        {"parameters": 8.0, "layout": (2, 1, 4, 1), "precision": "mxfp8", "batch": (1, 128, 8192), "zero": 1},
        ("model=llama3_8b", "cluster=dgx_b200", "cluster.gpus=8"),
    ),
    "open_r1_zero3": Published(
        "huggingface/open-r1 @1416fa0 recipes/accelerate_configs/zero3.yaml",
        "zero3.yaml",
        DISTILLED,
        {"parameters": 7.6, "layout": (1, 1, 8, 1), "zero": 3, "precision": "bf16", "backend": "deepspeed"},
        ("model=qwen2_5_7b", "training.sequence=32768", "training.steps=100", "training.micro_batch=2"),
    ),
    "factory_qwen3_30b_megatron": Published(
        "hiyouga/LLaMA-Factory @ff6d4d1 examples/megatron/qwen3_moe_full.yaml, with a length",
        "qwen3_moe_full.yaml",
        FACTORY,
        {"parameters": 30.5, "layout": (1, 2, 4, 2), "zero": 1, "backend": "megatron", "warmup": 20, "steps": 200},
        ("cluster.gpus=8",),
    ),
    "axolotl_fsdp2": Published(
        "axolotl-ai-cloud/axolotl @067b021 examples/gpt-oss/gpt-oss-20b-fft-fsdp2-offload.yaml, with a length",
        "gpt-oss-20b.yaml",
        AXOLOTL_FSDP2,
        {"parameters": 20.9, "layout": (1, 1, 8, 1), "zero": 3, "batch": (1, 16, 4096), "recompute": "full"},
        ("cluster.gpus=8",),
    ),
}
"""By name; each is one file, and what its users say beside it."""
