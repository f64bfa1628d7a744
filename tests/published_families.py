"""Further published configurations, a few of each family, retyped as facts with the commit that they were read at."""

from __future__ import annotations

from published import Published, bigscience, megatron
from published_forms import (
    AXOLOTL,
    CHAT,
    FREQUENCY,
    FULL,
    MOE,
    NEMO_GPT,
    NEOX_LLAMA,
    OWN_TOKENS,
    PAI_MODEL,
    QWEN3_4B,
    QWEN3_30B,
    SC21,
    VERL_GRPO,
    ZOO_MODEL,
    fork,
    rollout,
)

PAI = "alibaba/Pai-Megatron-Patch @a098ca5"
ZOO = "yanring/Megatron-MoE-ModelZoo @e865051"
FORK = "deepspeedai/Megatron-DeepSpeed @4efb479"
SCIENCE = "bigscience-workshop/bigscience @9e64ede"
SLIME = "THUDM/slime @624b824"
NEOX = "EleutherAI/gpt-neox @ea7aefd"
NEMO = "NVIDIA/NeMo-Framework-Launcher @26e42fa"
VERL = "volcengine/verl @b178a3c"

FAMILIES = {
    "qwen3_30b_by_words": Published(
        f"{PAI} examples/qwen3/run_mcore_qwen3.sh, with the words of its README",
        "run.sh",
        PAI_MODEL,
        {"parameters": 30.5, "layout": (4, 2, 4, 4), "batch": (1, 256, 4096), "steps": 953, "zero": 1},
        (),
        {"args": "cluster A3B 4 4 1000000000", "WORLD_SIZE": "4", "KUBERNETES_CONTAINER_RESOURCE_GPU": "8"},
    ),
    "qwen3_8b_by_words": Published(
        f"{PAI} examples/qwen3/run_mcore_qwen3.sh, its other machine and another size",
        "run.sh",
        PAI_MODEL,
        {"parameters": 8.0, "layout": (4, 2, 1, 1), "batch": (1, 256, 4096), "steps": 95, "lr": 1e-5},
        (),
        {"args": "here 8B 4 1 100000000"},
    ),
    "zoo_qwen3_235b": Published(
        f"{ZOO} model_configs/benchmarking/Qwen3-235B-A22B.yaml and best_practice/qwen3/run_h100_235b.sh",
        "Qwen3-235B-A22B.yaml",
        ZOO_MODEL.format(
            heads=64,
            groups=4,
            layers=94,
            hidden=4096,
            ffn=12288,
            experts=128,
            topk=8,
            width=1536,
            lr="3.9e-06",
            tokenizer="Qwen/Qwen3-235B-A22B",
            more="  --num-layers-per-virtual-pipeline-stage: 3\n  --account-for-embedding-in-pipeline-split: true\n"
            "  --account-for-loss-in-pipeline-split: true\n  --qk-layernorm: true\n",
        ),
        {"parameters": 235.1, "layout": (2, 8, 16, 32), "batch": (1, 2048, 4096), "steps": 131_130},
        ("cluster.gpus=256",),
        {"TP": "2", "PP": "8", "EP": "32", "MBS": "1", "GBS": "2048"},
    ),
    "zoo_mixtral_8x22b": Published(
        f"{ZOO} model_configs/benchmarking/Mixtral-8x22B.yaml",
        "Mixtral-8x22B.yaml",
        ZOO_MODEL.format(
            heads=48,
            groups=8,
            layers=56,
            hidden=6144,
            ffn=16384,
            experts=8,
            topk=2,
            width=16384,
            lr="1.2e-5",
            tokenizer="mistralai/Mixtral-8x22B-v0.1",
            more="",
        ),
        {"parameters": 140.6, "layout": (2, 8, 8, 8), "batch": (1, 256, 4096), "lr": 1.2e-5},
        ("cluster.gpus=128", "model.vocab=32000"),
        {"TP": "2", "PP": "8", "EP": "8", "MBS": "1", "GBS": "256"},
    ),
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
    "sc21_figure_11": Published(
        "NVIDIA/Megatron-LM @d98e8a6 examples/academic_paper_scripts/sc21/run_figure_11.sh with CONFIG.sh and SRUN.sh",
        "run_figure_11.sh",
        SC21,
        {"parameters": 16.2, "layout": (8, 1, 1, 1), "batch": (1, 8, 2048), "precision": "fp16", "warmup": 3},
    ),
    "llemma_7b": Published(
        f"{NEOX} configs/llemma/7B.yml; 256 GPUs: Azerbayev et al. 2024, appendix",
        "7B.yml",
        NEOX_LLAMA.format(width="", sequence=4096),
        {"parameters": 6.7, "layout": (2, 1, 128, 1), "batch": (4, 1024, 4096), "warmup": 500, "precision": "bf16"},
        ("cluster.gpus=256", "model.vocab=32016"),
    ),
    "neox_llama_7b": Published(
        f"{NEOX} configs/llama/7B.yml, whose width counts three matrices of an MLP",
        "llama_7B.yml",
        NEOX_LLAMA.format(width='"intermediate_size": 32768, ', sequence=2048),
        {"parameters": 6.7, "layout": (2, 1, 16, 1), "batch": (4, 128, 2048), "activation": "swiglu"},
        ("cluster.gpus=32", "model.vocab=32000"),
    ),
    "nemo_gpt_20b": Published(
        f"{NEMO} launcher_scripts/conf/training/gpt3/20b.yaml",
        "20b.yaml",
        NEMO_GPT.format(
            nodes=64,
            steps=75000,
            micro=2,
            batch=2048,
            tp=2,
            pp=1,
            vpp="null",
            sp="true",
            sequence=2048,
            layers=44,
            hidden=6144,
            ffn="${multiply:4, ${.hidden_size}}",
            heads=48,
            lr="1.4e-4",
            warmup=115,
            more="  tokenizer: {library: megatron, type: GPT2BPETokenizer}\n",
        ),
        {"parameters": 20.3, "layout": (2, 1, 256, 1), "zero": 1, "batch": (2, 2048, 2048), "warmup": 115},
    ),
    "nemo_nemotron_15b": Published(
        f"{NEMO} launcher_scripts/conf/training/nemotron/nemotron_15b.yaml",
        "nemotron_15b.yaml",
        NEMO_GPT.format(
            nodes=1,
            steps=100000,
            micro=2,
            batch=32,
            tp=4,
            pp=1,
            vpp="null",
            sp="true",
            sequence=4096,
            layers=32,
            hidden=6144,
            ffn=24576,
            heads=48,
            lr="4.5e-5",
            warmup=500,
            more="  activation: squared-relu\n  normalization: layernorm1p\n  num_query_groups: 8\n  bias: false\n"
            "  position_embedding_type: rope\n  rotary_percentage: 0.5\n  share_embeddings_and_output_weights: false\n",
        ),
        {"parameters": 15.6, "layout": (4, 1, 2, 1), "activation": "squared_relu", "batch": (2, 32, 4096)},
        ("model.vocab=256000",),
    ),
    "nemo_mixtral_8x7b": Published(
        f"{NEMO} launcher_scripts/conf/training/mixtral/mixtral_8x7b.yaml",
        "mixtral_8x7b.yaml",
        NEMO_GPT.format(
            nodes=8,
            steps=300000,
            micro=1,
            batch=256,
            tp=1,
            pp=4,
            vpp=8,
            sp="false",
            sequence=4096,
            layers=32,
            hidden=4096,
            ffn=14336,
            heads=32,
            lr="1e-4",
            warmup=636,
            more="  activation: fast-swiglu\n  normalization: rmsnorm\n  num_query_groups: 8\n  bias: false\n"
            "  position_embedding_type: rope\n  rotary_base: 1000000.0\n  share_embeddings_and_output_weights: false\n"
            "  num_moe_experts: 8\n  moe_router_topk: 2\n  moe_grouped_gemm: true\n  expert_model_parallel_size: 8\n"
            "  moe_token_dispatcher_type: alltoall\n"
            "  tokenizer: {library: huggingface, type: mistralai/Mixtral-8x7B-v0.1}\n",
        ),
        {"parameters": 46.7, "layout": (1, 4, 16, 8), "zero": 1, "warmup": 636, "activation": "swiglu"},
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
    "axolotl_llama3_8b": Published(
        "axolotl-ai-cloud/axolotl @067b021 examples/llama-3/fft-8b.yaml, with FSDP and a length",
        "fft-8b.yaml",
        AXOLOTL,
        {"parameters": 8.0, "layout": (1, 1, 8, 1), "zero": 3, "batch": (1, 64, 8192), "precision": "bf16"},
        ("cluster.gpus=8",),
    ),
    "deepspeed_chat_llama2_7b": Published(
        "deepspeedai/DeepSpeedExamples @45b4b71 DeepSpeed-Chat step1 training_scripts/llama2/run_llama2_7b.sh",
        "run_llama2_7b.sh",
        CHAT,
        {"parameters": 6.7, "layout": (1, 1, 8, 1), "zero": 3, "batch": (4, 32, 512), "lr": 9.65e-6},
        ("training.steps=100",),
        {"args": "out"},
    ),
    "bridge_llama32_1b": Published(
        "NVIDIA-NeMo/Megatron-Bridge @067f987 tutorials/recipes/llama/conf/llama32_1b_pretrain.yaml",
        "llama32_1b_pretrain.yaml",
        "train: {train_iters: 100, global_batch_size: 8, micro_batch_size: 1}\noptimizer: {lr: 3e-4, min_lr: 3e-5}\n"
        "scheduler: {lr_warmup_iters: 20}\ndataset: {seq_length: 4096}\nmodel: {seq_length: 4096}\n",
        {"parameters": 1.2, "layout": (1, 1, 8, 1), "zero": 1, "precision": "bf16", "steps": 100},
        ("model=llama3_2_1b", "cluster.gpus=8"),
    ),
    "accelerate_zero2": Published(
        "huggingface/accelerate @16cb6eb examples/deepspeed_config_templates/zero_stage2_config.json, its YAML inlined",
        "zero2.yaml",
        "distributed_type: DEEPSPEED\nmixed_precision: bf16\nnum_machines: 2\nnum_processes: 16\ndeepspeed_config:\n"
        "  zero_stage: 2\n  gradient_accumulation_steps: 4\n  gradient_clipping: 1.0\n  zero3_init_flag: false\n"
        "  deepspeed_multinode_launcher: standard\n",
        {"layout": (1, 1, 16, 1), "zero": 2, "precision": "bf16", "backend": "deepspeed"},
        ("model=llama3_8b", "training.sequence=4096", "training.steps=1000"),
    ),
    "factory_llama3_megatron": Published(
        "hiyouga/LLaMA-Factory @ff6d4d1 examples/train_full/qwen3_full_sft.yaml, with a stage and a length",
        "qwen3_full_sft.yaml",
        "model_name_or_path: Qwen/Qwen3-4B-Instruct-2507\ntrust_remote_code: true\nstage: sft\ndo_train: true\n"
        "finetuning_type: full\nfsdp: full_shard auto_wrap\ndataset: identity,alpaca_en_demo\ntemplate: qwen3\n"
        "cutoff_len: 2048\nmax_samples: 1000\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 2\n"
        "learning_rate: 1.0e-5\nmax_steps: 100\nlr_scheduler_type: cosine\nbf16: true\nddp_timeout: 180000000\n",
        {"parameters": 4.0, "batch": (1, 16, 2048), "zero": 3, "lr": 1e-5, "precision": "bf16"},
        ("cluster.gpus=8",),
    ),
}
"""By name; each is one file, and what its users say beside it."""
