"""How families of published configurations are written: what files have in common; sizes and degrees are left open."""

from __future__ import annotations

OWN_TOKENS = "--train-samples 300_000_000_000 --lr-decay-style cosine --vocab-file v --merge-file m --split 98,2,0 "
MOE = (
    "--num-experts 128 --moe-expert-parallel-size 64 --moe-loss-coeff 0.01 --moe-train-capacity-factor 1.0 "
    "--moe-eval-capacity-factor 1.0 --moe-min-capacity 4 --create-moe-param-group --override-opt_param-scheduler "
)


def fork(gpus: str, arguments: str) -> str:
    """How Megatron-DeepSpeed's examples start it: one text of options, behind the launcher deepspeed."""
    return f'#!/bin/bash\nOPTIONS="{arguments}"\ndeepspeed {gpus} pretrain_gpt.py ${{OPTIONS}} $EXTRA\n'


def rollout(gpus: str, model: str, layout: str) -> str:
    """How slime's scripts start it: the model's arguments in an array, Ray between."""
    return (
        f"#!/bin/bash\npkill -9 sglang\nMODEL_ARGS=(\n  {model}\n)\nLAYOUT=(\n  {layout}\n)\nray start --head\n"
        f"ray job submit --address=http://127.0.0.1:8265 --runtime-env-json='{{}}' -- python3 train.py "
        f"--actor-num-nodes 1 --actor-num-gpus-per-node {gpus} ${{MODEL_ARGS[@]}} ${{LAYOUT[@]}} "
        "--rollout-batch-size 32 --n-samples-per-prompt 8 --rollout-max-response-len 8192 "
        "--global-batch-size 256 --lr 1e-6 --lr-decay-style constant --weight-decay 0.1 --use-dynamic-batch-size "
        "--max-tokens-per-gpu 9216\n"
    )


QWEN3 = (
    "--swiglu --disable-bias-linear --qk-layernorm --group-query-attention --kv-channels 128 --normalization RMSNorm "
    "--use-rotary-position-embeddings --norm-epsilon 1e-6 --rotary-base 1000000 --vocab-size 151936"
)
QWEN3_4B = (
    f"{QWEN3} --num-layers 36 --hidden-size 2560 --ffn-hidden-size 9728 --num-attention-heads 32 --num-query-groups 8"
)
QWEN3_30B = (
    f"{QWEN3} --num-layers 48 --hidden-size 2048 --ffn-hidden-size 6144 --num-attention-heads 32 --num-query-groups 4 "
    "--untie-embeddings-and-output-weights --num-experts 128 --moe-router-topk 8 --moe-ffn-hidden-size 768 "
    "--moe-router-load-balancing-type none --moe-grouped-gemm --moe-layer-freq $FREQ"
)
FREQUENCY = (
    "FIRST=0\nkinds=()\nfor ((i = 0; i < 48; i++)); do\n  if ((i < FIRST)); then kinds+=(0); else kinds+=(1); fi\n"
    "done\n"
    'printf -v FREQ "[%s]" "$(IFS=\', \'; echo "${kinds[*]}")"\n'
)
FULL = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"

PAI_MODEL = """#!/bin/bash
ENV=$1
if [ $ENV = here ]; then NNODES=1; GPUS=`python -c "import torch; print(torch.cuda.device_count())"`
elif [ $ENV = cluster ]; then NNODES=${WORLD_SIZE}; GPUS=${KUBERNETES_CONTAINER_RESOURCE_GPU}; fi
SIZE=$2
if [ $SIZE = 8B ]; then LAYERS=36; HIDDEN=4096; FFN=12288; EXPERTS=""
elif [ $SIZE = A3B ]; then
  LAYERS=48; HIDDEN=2048; FFN=6144
  EXPERTS="--num-experts 128 --moe-router-topk 8 --moe-ffn-hidden-size 768 --moe-grouped-gemm \\
    --moe-token-dispatcher-type alltoall --expert-model-parallel-size $4 --moe-layer-freq '([1]*48)'"
fi
if [ -z ${VP} ]; then VPP=""; else VPP="--num-layers-per-virtual-pipeline-stage ${VP}"; fi
STEPS=$(( $5 / 256 / 4096 ))
torchrun --nproc_per_node $GPUS --nnodes $NNODES pretrain.py --num-layers $LAYERS --hidden-size $HIDDEN \\
  --ffn-hidden-size $FFN --num-attention-heads 32 --group-query-attention --num-query-groups 4 --kv-channels 128 \\
  --qk-layernorm --swiglu --disable-bias-linear --normalization RMSNorm --untie-embeddings-and-output-weights \\
  --use-rotary-position-embeddings --position-embedding-type rope --padded-vocab-size 151936 --seq-length 4096 \\
  --max-position-embeddings 40960 --micro-batch-size 1 --global-batch-size 256 --train-iters $STEPS --lr 1e-5 --bf16 \\
  --tensor-model-parallel-size $3 --pipeline-model-parallel-size 2 --sequence-parallel --use-distributed-optimizer \\
  --patch-tokenizer-type Qwen3Tokenizer --dataset MMAP ${EXPERTS} $VPP
"""
ZOO_MODEL = """ENV_VARS: {{NCCL_IB_SL: 1}}
MODEL_ARGS:
  --tensor-model-parallel-size: ${{TP}}
  --pipeline-model-parallel-size: ${{PP}}
  --expert-model-parallel-size: ${{EP}}
  --expert-tensor-parallel-size: 1
  --micro-batch-size: ${{MBS}}
  --global-batch-size: ${{GBS}}
  --seq-length: 4096
  --max-position-embeddings: 40960
  --train-samples: 268554688
  --swiglu: true
  --bf16: true
  --disable-bias-linear: true
  --untie-embeddings-and-output-weights: true
  --normalization: RMSNorm
  --position-embedding-type: rope
  --group-query-attention: true
  --sequence-parallel: true
  --use-distributed-optimizer: true
  --num-attention-heads: {heads}
  --num-query-groups: {groups}
  --kv-channels: 128
  --num-layers: {layers}
  --hidden-size: {hidden}
  --ffn-hidden-size: {ffn}
  --num-experts: {experts}
  --moe-router-topk: {topk}
  --moe-ffn-hidden-size: {width}
  --moe-grouped-gemm: true
  --moe-token-dispatcher-type: alltoall
  --tokenizer-type: HuggingFaceTokenizer
  --tokenizer-model: {tokenizer}
  --lr: {lr}
{more}"""
NEMO_GPT = """trainer: {{num_nodes: {nodes}, devices: 8, precision: bf16, max_steps: {steps}, gradient_clip_val: 1.0}}
model:
  micro_batch_size: {micro}
  global_batch_size: {batch}
  tensor_model_parallel_size: {tp}
  pipeline_model_parallel_size: {pp}
  virtual_pipeline_model_parallel_size: {vpp}
  sequence_parallel: {sp}
  encoder_seq_length: {sequence}
  max_position_embeddings: ${{.encoder_seq_length}}
  num_layers: {layers}
  hidden_size: {hidden}
  ffn_hidden_size: {ffn}
  num_attention_heads: {heads}
{more}  optim: {{name: distributed_fused_adam, lr: {lr}, weight_decay: 0.1, betas: [0.9, 0.95],
    sched: {{name: CosineAnnealing, warmup_steps: {warmup}, min_lr: 1e-5}}}}
"""
NEOX_LLAMA = """{{
  "pipe_parallel_size": 1, "model_parallel_size": 2, "make_vocab_size_divisible_by": 1,
  "num_layers": 32, "hidden_size": 4096, {width}"num_attention_heads": 32, "seq_length": {sequence},
  "max_position_embeddings": {sequence}, "pos_emb": "rotary", "rotary_pct": 1, "no_weight_tying": true,
  "gpt_j_residual": false, "norm": "rmsnorm", "rms_norm_epsilon": 1.0e-5, "activation": "swiglu",
  "use_bias_in_norms": false, "use_bias_in_attn_linear": false, "mlp_multiple_of": 256,
  "optimizer": {{"type": "Adam", "params": {{"lr": 0.0001, "betas": [0.9, 0.95], "eps": 1.0e-8}}}},
  "zero_optimization": {{"stage": 1}}, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2,
  "checkpoint_activations": true, "gradient_clipping": 1.0, "weight_decay": 0.1, "precision": "bfloat16",
  "train_iters": 48000, "lr_decay_iters": 48000, "lr_decay_style": "cosine", "warmup_iters": 500
}}
"""
VERL_GRPO = """NODES=${{NNODES:-1}}
python3 -m verl.trainer.main_ppo --config-path=config --config-name='ppo_megatron_trainer.yaml' \\
  algorithm.adv_estimator=grpo data.train_batch_size=1024 data.max_prompt_length={prompt} \\
  data.max_response_length={answer} actor_rollout_ref.model.path={model} actor_rollout_ref.actor.optim.lr=1e-6 \\
  actor_rollout_ref.actor.ppo_mini_batch_size={batch} actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro} \\
  actor_rollout_ref.actor.megatron.pipeline_model_parallel_size={pp} \\
  actor_rollout_ref.actor.megatron.tensor_model_parallel_size={tp} \\
  actor_rollout_ref.actor.megatron.expert_model_parallel_size={ep} trainer.n_gpus_per_node=8 trainer.nnodes=$NODES $@
"""
AXOLOTL = """base_model: NousResearch/Meta-Llama-3.1-8B
datasets: [{path: tatsu-lab/alpaca, type: alpaca}]
sequence_len: 8192
sample_packing: true
gradient_accumulation_steps: 8
micro_batch_size: 1
num_epochs: 1
max_steps: 100
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-5
bf16: auto
gradient_checkpointing: true
fsdp: [full_shard, auto_wrap]
wandb_project:
"""
CHAT = """#!/bin/bash
OUTPUT=$1
ZERO_STAGE=$2
if [ "$OUTPUT" == "" ]; then OUTPUT=./output; fi
if [ "$ZERO_STAGE" == "" ]; then ZERO_STAGE=3; fi
deepspeed --num_gpus 8 main.py --data_path Dahoas/rm-static --data_split 2,4,4 \\
  --model_name_or_path meta-llama/Llama-2-7b-hf --per_device_train_batch_size 4 --max_seq_len 512 \\
  --learning_rate 9.65e-6 --weight_decay 0. --gradient_accumulation_steps 1 --lr_scheduler_type cosine \\
  --num_warmup_steps 0 --gradient_checkpointing --zero_stage $ZERO_STAGE --deepspeed --output_dir $OUTPUT
"""
SC21 = """#!/bin/bash
PP=1
NNODES=${PP}
export PARAMS=" ${EXTRA} --tensor-model-parallel-size 8 --pipeline-model-parallel-size ${PP} --micro-batch-size 1 \\
  --global-batch-size 8 --num-layers $((3*PP)) --hidden-size 20480 --num-attention-heads 128 --seq-length 2048 \\
  --max-position-embeddings 2048 --train-iters 500 --lr-decay-iters 320 --lr 0.0001 --lr-warmup-fraction 0.01 \\
  --vocab-file v --merge-file m --fp16 --DDP-impl local"
sbatch -p part --nodes=${NNODES} <<EOF
#!/bin/bash
#SBATCH -t 0:30:00 --exclusive --mem=0 --overcommit --ntasks-per-node=8
srun --ntasks-per-node=8 --nodes=${NNODES} sh -c "python -u pretrain_gpt.py ${PARAMS}"
EOF
"""
