"""Configurations of post-training by slime and verl, retyped as facts with their commits."""

from __future__ import annotations

from published import Published
from published_forms import FREQUENCY, FULL, QWEN3_4B, QWEN3_30B, VERL_GRPO, rollout

__all__ = ["POST_TRAINING"]

SLIME = "THUDM/slime @624b824"
VERL = "volcengine/verl @b178a3c"

GUARDED = """#!/bin/bash
if [ -z "${BASE}" ]; then
  echo "set BASE"
  exit 1
fi
LAYERS=94
DENSE=0
arr=()
for ((i=0; i<LAYERS; i++)); do
  if (( i < DENSE )); then arr+=(0); else arr+=(1); fi
done
printf -v FREQ "[%s]" "$(IFS=', '; echo "${arr[*]}")"
MODEL=(
  --disable-bias-linear --qk-layernorm --group-query-attention --num-attention-heads 64 --num-query-groups 4
  --kv-channels 128 --num-layers 94 --hidden-size 4096 --ffn-hidden-size 12288 --normalization RMSNorm
  --position-embedding-type rope --norm-epsilon 1e-6 --swiglu --untie-embeddings-and-output-weights
  --vocab-size 151936 --rotary-base "${BASE_OF_ROPE:-1000000}" --moe-ffn-hidden-size 1536 --moe-router-topk 8
  --moe-router-score-function softmax --moe-layer-freq "$FREQ" --num-experts 128 --moe-grouped-gemm
  --moe-router-dtype fp32 --moe-aux-loss-coeff 0
)
LAYOUT=(
  --tensor-model-parallel-size 4 --sequence-parallel --pipeline-model-parallel-size 4 --context-parallel-size 2
  --expert-model-parallel-size 16 --expert-tensor-parallel-size 1 --decoder-last-pipeline-num-layers 22
  --recompute-granularity full --recompute-method uniform --recompute-num-layers 1
)
for HOST in $(awk '{print $1}' hosts); do
  if [[ "$HOST" == "$FIRST" ]]; then continue; fi
  ssh root@"${HOST}" "ray start --address=${FIRST}:6379" &
done
RUNTIME="{
  \\"env_vars\\": {\\"CUDA_DEVICE_MAX_CONNECTIONS\\": \\"1\\", \\"no_proxy\\": \\"${FIRST}\\"}
}"
ray job submit --address="http://127.0.0.1:8265" --runtime-env-json="${RUNTIME}" -- python3 train.py \\
  --actor-num-nodes 8 --actor-num-gpus-per-node 8 ${MODEL[@]} ${LAYOUT[@]} --load ${BASE}/slime \\
  --rollout-max-response-len 8192 --global-batch-size 64 --lr 1e-6 --lr-decay-style constant --weight-decay 0.1
"""
VERL_ARRAYS = """NNODES=${{NNODES:-{nodes}}}
BACKEND=${{BACKEND:-vllm}}
ACTOR=(
  actor_rollout_ref.actor.optim.lr=1e-6
  actor_rollout_ref.actor.optim.lr_warmup_steps=-1
  +actor_rollout_ref.actor.optim.override_optimizer_config.use_precision_aware_optimizer=True
  +actor_rollout_ref.actor.optim.override_optimizer_config.optimizer_cpu_offload=True
  actor_rollout_ref.actor.ppo_mini_batch_size=${{MINI:-{mini}}}
  actor_rollout_ref.actor.use_dynamic_bsz=True
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=${{TOKENS:-$((2048 + 8192))}}
  actor_rollout_ref.actor.megatron.tensor_model_parallel_size={tp}
  actor_rollout_ref.actor.megatron.pipeline_model_parallel_size={pp}
  actor_rollout_ref.actor.megatron.expert_model_parallel_size={ep}
  actor_rollout_ref.actor.megatron.expert_tensor_parallel_size=1
  {more}
)
LAUNCH=(python3)
if [ "${{UV:-1}}" != 0 ] && {{ [ "${{BACKEND}}" = vllm ] || [ "${{BACKEND}}" = sglang ]; }}; then
  LAUNCH=(uv run --frozen --extra "${{BACKEND}}" python3)
fi
"${{LAUNCH[@]}}" -m verl.trainer.main_ppo --config-name=ppo_megatron_trainer data.max_prompt_length=2048 \\
  data.max_response_length=8192 actor_rollout_ref.model.path={model} actor_rollout_ref.rollout.n={answers} \\
  "${{ACTOR[@]}}" reward.reward_manager.name=dapo trainer.nnodes=$NNODES trainer.n_gpus_per_node=8
"""
VERL_SFT = """set -x
if [ "$#" -lt 2 ]; then
    echo "two words are needed"
    exit 1
fi
ranks=$1
save_path=$2
shift 2
torchrun --standalone --nnodes=1 --nproc_per_node=$ranks -m verl.trainer.fsdp_sft_trainer \\
    data.train_files=$HOME/train.parquet data.prompt_key=extra_info data.prompt_dict_keys=['question'] \\
    optim.lr=1e-4 data.micro_batch_size=4 model.partial_pretrain=Qwen/Qwen2.5-0.5B-Instruct \\
    trainer.default_local_dir=$save_path trainer.logger=console trainer.total_training_steps=1 $@ \\
    ulysses_sequence_parallel_size=2 use_remove_padding=true
"""
VERL_ENGINE = """set -xeuo pipefail
RANKS=${NUM_GPUS:-1}
backend=${BACKEND:-fsdp}
MODEL_ID=${MODEL_ID:-Qwen/Qwen2.5-0.5B}
FSDP="engine=${backend} optim=${backend} optim.lr=1e-5 optim.lr_warmup_steps_ratio=0.2 optim.weight_decay=0.1 \\
    optim.betas="[0.9,0.95]" optim.lr_scheduler_type=cosine engine.ulysses_sequence_parallel_size=${SP_SIZE:-1} \\
    engine.strategy=fsdp engine.fsdp_size=${FSDP_SIZE:-${RANKS}}"
MEGATRON="engine=${backend} optim=${backend} optim.lr=1e-5 optim.lr_warmup_steps_ratio=0.2 optim.weight_decay=0.1 \\
    optim.betas="[0.9,0.95]" optim.lr_decay_style=cosine optim.min_lr=1e-6 \\
    engine.tensor_model_parallel_size=${TP_SIZE:-1} engine.pipeline_model_parallel_size=${PP_SIZE:-1} \\
    engine.virtual_pipeline_model_parallel_size=${VPP_SIZE:-null} engine.context_parallel_size=${CP_SIZE:-1}
    engine.use_mbridge=True"
if [ "$backend" = "fsdp" ]; then CONFIG="$FSDP"; else CONFIG="$MEGATRON"; fi
torchrun --standalone --nnodes=${NNODES:-1} --nproc-per-node=${RANKS} -m verl.trainer.sft_trainer \\
    data.train_batch_size=128 data.pad_mode=no_padding data.use_dynamic_bsz=True data.max_token_len_per_gpu=2048 \\
    model.path=${HOME}/models/${MODEL_ID} ${CONFIG} trainer.logger=['console','file'] trainer.total_training_steps=2
"""
VERL_FSDP = """set -x
TRAIN="['$HOME/data/gsm8k/train.parquet', '$HOME/data/math/train.parquet']"
python3 -m verl.trainer.main_ppo algorithm.adv_estimator=grpo data.train_files="$TRAIN" data.train_batch_size=1024 \\
    data.max_prompt_length=1024 data.max_response_length=1024 actor_rollout_ref.model.path=Qwen/Qwen2.5-Math-7B \\
    actor_rollout_ref.actor.optim.lr=1e-6 actor_rollout_ref.model.use_remove_padding=True \\
    actor_rollout_ref.actor.ppo_mini_batch_size=256 actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16 \\
    actor_rollout_ref.model.enable_gradient_checkpointing=True \\
    actor_rollout_ref.actor.fsdp_config.param_offload=False actor_rollout_ref.rollout.n=5 \\
    actor_rollout_ref.rollout.tensor_model_parallel_size=2 \\
    trainer.n_gpus_per_node=8 trainer.nnodes=1 $@
"""

POST_TRAINING = {
    "slime_qwen3_30b": Published(
        f"{SLIME} scripts/run-qwen3-30B-A3B.sh and scripts/models/qwen3-30B-A3B.sh",
        "run-qwen3-30B-A3B.sh",
        rollout(
            "8",
            QWEN3_30B,
            f"--tensor-model-parallel-size 4 --sequence-parallel --expert-model-parallel-size 8 {FULL} "
            "--expert-tensor-parallel-size 1 --moe-token-dispatcher-type alltoall",
        ).replace("pkill -9 sglang\n", FREQUENCY),
        {"parameters": 30.5, "layout": (4, 1, 2, 8), "zero": 1, "batch": (1, 256, 8192), "precision": "bf16"},
    ),
    "slime_qwen3_4b": Published(
        f"{SLIME} scripts/run-qwen3-4B.sh",
        "run-qwen3-4B.sh",
        rollout("${NUM_GPUS}", QWEN3_4B, f"--tensor-model-parallel-size 2 --sequence-parallel {FULL}"),
        {"parameters": 4.0, "layout": (2, 1, 4, 1), "zero": 1, "recompute": "full", "lr": 1e-6},
        (),
        {"NUM_GPUS": "8"},
    ),
    "slime_qwen3_235b": Published(
        "THUDM/slime @624b824 scripts/run-qwen3-235B-A22B.sh with its models/qwen3-235B-A22B.sh",
        "run-qwen3-235B.sh",
        GUARDED,
        {"parameters": 235.1, "layout": (4, 4, 2, 16), "batch": (1, 64, 8192), "recompute": "full", "lr": 1e-6},
        ("training.steps=100",),
    ),
    "verl_qwen2_7b": Published(
        f"{VERL} examples/grpo_trainer/run_qwen2-7b_math_megatron.sh",
        "run_qwen2-7b.sh",
        VERL_GRPO.format(
            prompt=1024, answer=1024, model="Qwen/Qwen2-7B-Instruct", batch=256, micro=4, pp=2, tp=2, ep=1
        ),
        {"parameters": 7.6, "layout": (2, 2, 2, 1), "batch": (4, 256, 2048), "lr": 1e-6, "zero": 1},
    ),
    "verl_qwen3_30b": Published(
        f"{VERL} examples/grpo_trainer/run_qwen3moe-30b_megatron_96gb.sh",
        "run_qwen3moe-30b.sh",
        VERL_GRPO.format(
            prompt=2048, answer=8192, model="Qwen/Qwen3-30B-A3B-Base", batch=128, micro=2, pp=1, tp=1, ep=8
        ),
        {"parameters": 30.5, "layout": (1, 1, 8, 8), "batch": (2, 128, 10240), "precision": "bf16"},
    ),
    "verl_deepseek_v3": Published(
        "verl-project/verl @1dda039 examples/grpo_trainer/run_deepseek_v3_671b_megatron.sh",
        "run_deepseek_v3.sh",
        VERL_ARRAYS.format(
            nodes=12,
            mini=32,
            tp=8,
            pp=12,
            ep=8,
            model="deepseek-ai/DeepSeek-V3",
            answers=8,
            more="+actor_rollout_ref.actor.megatron.override_transformer_config.num_layers_in_last_pipeline_stage=6",
        ),
        {"layout": (8, 12, 1, 8), "batch": (1, 256, 10240), "lr": 1e-6, "zero": 1},
        ("model.mtp=0", "model.max_positions=163840", "training.steps=100"),
    ),
    "verl_qwen3_30b_arrays": Published(
        "verl-project/verl @1dda039 examples/grpo_trainer/run_qwen3_30b_a3b_megatron.sh, of one chunk a stage",
        "run_qwen3_30b.sh",
        VERL_ARRAYS.format(nodes=1, mini=16, tp=4, pp=2, ep=2, model="Qwen/Qwen3-30B-A3B-Base", answers=8, more=""),
        {"parameters": 30.5, "layout": (4, 2, 1, 2), "batch": (1, 128, 10240), "precision": "bf16"},
        ("training.steps=100",),
    ),
    "verl_sft_ulysses": Published(
        f"{VERL} examples/sft/gsm8k/run_qwen_05_sp2.sh on eight GPUs",
        "run_qwen_05_sp2.sh",
        VERL_SFT,
        {"layout": (1, 1, 4, 1), "zero": 3, "batch": (4, 256, 1024), "lr": 1e-4, "steps": 1, "backend": "deepspeed"},
        (),
        {"args": "8 out"},
    ),
    "verl_sft_megatron": Published(
        f"{VERL} tests/special_e2e/sft/run_sft_engine.sh with the engine megatron",
        "run_sft_engine.sh",
        VERL_ENGINE,
        {"layout": (2, 2, 2, 1), "zero": 1, "batch": (2, 128, 1024), "lr": 1e-5, "backend": "megatron", "steps": 2},
        (),
        {"BACKEND": "megatron", "NUM_GPUS": "8", "TP_SIZE": "2", "PP_SIZE": "2"},
    ),
    "verl_sft_fsdp": Published(
        f"{VERL} tests/special_e2e/sft/run_sft_engine.sh as it stands, on eight GPUs",
        "run_sft_engine.sh",
        VERL_ENGINE,
        {"layout": (1, 1, 8, 1), "zero": 3, "batch": (2, 128, 1024), "recompute": "full", "precision": "bf16"},
        (),
        {"NUM_GPUS": "8"},
    ),
    "verl_fsdp_qwen25_7b": Published(
        f"{VERL} examples/gmpo_trainer/run_qwen2_5-7b_math.sh",
        "run_qwen2_5-7b_math.sh",
        VERL_FSDP,
        {"parameters": 7.6, "layout": (1, 1, 8, 1), "zero": 3, "batch": (16, 1280, 2048), "backend": "deepspeed"},
        ("training.steps=100",),
    ),
}
"""By name; each is one file, and what its users say beside it."""
