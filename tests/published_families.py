"""Further published configurations, a few of each family, retyped as facts with the commit that they were read at."""

from __future__ import annotations

from published import Published
from published_forms import AXOLOTL, CHAT, NEMO_GPT, NEOX_LLAMA, PAI_MODEL, SC21, ZOO_MODEL

PAI = "alibaba/Pai-Megatron-Patch @a098ca5"
ZOO = "yanring/Megatron-MoE-ModelZoo @e865051"
NEOX = "EleutherAI/gpt-neox @ea7aefd"
NEMO = "NVIDIA/NeMo-Framework-Launcher @26e42fa"

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
