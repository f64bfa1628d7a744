"""Frameworks' own examples, a few of each, retyped as facts."""

from __future__ import annotations

from published import Published, bigscience, megatron

__all__ = ["DEEPSPEED", "EXAMPLES", "GPT3", "GPT_345M", "HF", "MIXTRAL"]

GPT3 = (
    "--num-layers 96 --hidden-size 12288 --num-attention-heads 96 --seq-length 2048 --max-position-embeddings 2048 "
    "--micro-batch-size 1 --train-iters 500000 --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.95 "
    "--init-method-std 0.006 --fp16 --lr 6.0e-5 --lr-decay-style cosine --min-lr 6.0e-6 --lr-warmup-fraction .001 "
    "--lr-decay-iters 430000 --vocab-file $1 --merge-file $2 --split 949,50,1"
)
LLAMA3 = (
    "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --group-query-attention "
    "--num-query-groups 8 --kv-channels 128 --seq-length 8192 --max-position-embeddings 8192 --normalization RMSNorm "
    "--position-embedding-type rope --rotary-base 1000000 --swiglu --untie-embeddings-and-output-weights "
    "--disable-bias-linear --attention-dropout 0.0 --hidden-dropout 0.0 --vocab-size 128256 "
    "--tokenizer-type NullTokenizer --mock-data --micro-batch-size 1 --global-batch-size 128 --lr 0.00015 --bf16"
)
MIXTRAL = (
    "--disable-bias-linear --seq-length 4096 --max-position-embeddings 32768 --num-layers 32 --hidden-size 4096 "
    "--ffn-hidden-size 14336 --num-attention-heads 32 --attention-dropout 0.0 --hidden-dropout 0.0 "
    "--normalization RMSNorm --position-embedding-type rope --swiglu --untie-embeddings-and-output-weights "
    "--group-query-attention --num-query-groups 8 --rotary-base 1000000 --num-experts 8 --moe-router-topk 2 "
    "--moe-aux-loss-coeff 1e-2 --moe-grouped-gemm --moe-token-dispatcher-type alltoall --micro-batch-size 1 "
    "--global-batch-size 256 --lr 1e-4 --train-iters 500000 --lr-decay-style cosine --bf16 --vocab-size 32000"
)
GPT_345M = (
    "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024 --max-position-embeddings 1024 "
    "--micro-batch-size 4 --global-batch-size 16 --lr 0.00015 --train-iters 500000 --lr-decay-iters 320000 "
    "--lr-decay-style cosine --lr-warmup-fraction .01 --fp16 --vocab-file $1 --merge-file $2"
)
NEOX = """{{
  "pipe_parallel_size": {pp}, "model_parallel_size": {tp}, # as published
  "num_layers": {layers}, "hidden_size": {hidden}, "num_attention_heads": {heads},
  "seq_length": 2048, "max_position_embeddings": 2048, "pos_emb": "rotary", "rotary_pct": 0.25,
  "no_weight_tying": true, "gpt_j_residual": true, "norm": "layernorm",
  "optimizer": {{"type": "Adam", "params": {{"lr": {lr}, "betas": [0.9, 0.95], "eps": 1.0e-8}}}},
  "zero_optimization": {{"stage": 1, "overlap_comm": True}},
  "train_micro_batch_size_per_gpu": {micro}, "gradient_accumulation_steps": {accumulate},
  "checkpoint_activations": true, "checkpoint_num_layers": 1, "gradient_clipping": 1.0, "weight_decay": {decay},
  "fp16": {{"fp16": true, "enabled": true}}, "train_iters": {steps}, "lr_decay_iters": {steps},
  "lr_decay_style": "cosine", "warmup": 0.01, "tokenizer_type": "HFTokenizer",
}}
"""
DEEPSPEED = """{
  "bf16": {"enabled": true},
  "zero_optimization": {"stage": 3, "overlap_comm": true, "stage3_param_persistence_threshold": 1e4},
  "optimizer": {"type": "AdamW", "params": {"lr": 2e-5, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}},
  "gradient_clipping": 1.0,
  "train_batch_size": 128, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4
}
"""


def neox(**values: object) -> str:
    """A configuration of gpt-neox, in its mixture of YAML and JSON."""
    return NEOX.format(**values)


HF = ("model=llama3_8b", "training.sequence=4096", "training.steps=1000")

EXAMPLES = {
    "gpt3_175b": Published(
        "NVIDIA/Megatron-LM examples/gpt3/train_gpt3_175b_distributed.sh, on 1,024 GPUs, with one of its two batches",
        "train.sh",
        megatron(
            8,
            GPT3,
            "--step-batch-size-schedule '0:16 2.4B:320 12B:1536'",
            "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 16",
            nodes=128,
        ),
        {"parameters": 174.6, "layout": (8, 16, 8, 1), "lr": 6e-5, "precision": "fp16", "steps": 500_000},
    ),
    "llama3_8b_fp8": Published(
        "NVIDIA/Megatron-LM examples/llama/train_llama3_8b_h100_fp8.sh",
        "train.sh",
        megatron(
            8,
            LLAMA3,
            "--train-samples 1953125000 --lr-decay-samples 1949218748 --lr-warmup-samples 3906252",
            "--grad-reduce-in-bf16",
            '"--fp8-format hybrid" "--fp8-amax-history-len 1024" "--fp8-param-gather"',
            "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
        ),
        {"parameters": 8.0, "layout": (1, 1, 8, 1), "precision": "fp8_delayed", "zero": 1, "steps": 15_258_789},
    ),
    "llama3_8b_fsdp": Published(
        "NVIDIA/Megatron-LM examples/megatron_fsdp/train_llama3_8b_fsdp_h100_fp8.sh",
        "train.sh",
        megatron(
            8,
            LLAMA3,
            "--train-iters 100 --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params "
            "--no-gradient-accumulation-fusion --ckpt-format fsdp_dtensor --use-distributed-optimizer "
            "--overlap-grad-reduce --overlap-param-gather",
        ).replace("CONNECTIONS=1", "CONNECTIONS=8"),
        {"layout": (1, 1, 8, 1), "zero": 3, "batch": (1, 128, 8192), "activation": "swiglu"},
    ),
    "mixtral_8x7b": Published(
        "NVIDIA/Megatron-LM examples/mixtral/train_mixtral_8x7b_distributed.sh, on the 32 GPUs that its layout needs",
        "train.sh",
        megatron(
            8,
            MIXTRAL,
            "--pipeline-model-parallel-size 4 --expert-model-parallel-size 8 --use-distributed-optimizer",
            nodes=4,
        ),
        {"parameters": 46.7, "layout": (1, 4, 8, 8), "zero": 1, "batch": (1, 256, 4096), "lr": 1e-4},
    ),
    "gpt_345m": Published(
        "deepspeedai/Megatron-DeepSpeed examples/pretrain_gpt_distributed_with_mp.sh",
        "train.sh",
        megatron(8, GPT_345M, "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel"),
        {"parameters": 0.4, "layout": (2, 2, 2, 1), "warmup": 3200, "activation": "gelu_tanh"},
    ),
    "bloom_176b": Published(
        "bigscience-workshop/bigscience train/tr11-176B-ml/tr11-176B-ml.slurm, without its fused kernels' biases",
        "tr11.slurm",
        bigscience(
            48,
            8,
            "--tensor-model-parallel-size 4 --pipeline-model-parallel-size 12 --num-layers 70 --hidden-size 14336 "
            "--num-attention-heads 112 --seq-length 2048 --max-position-embeddings 2048 --micro-batch-size 2 "
            "--global-batch-size 2048 --train-samples 220_000_000 --tokenizer-type PretrainedFromHF --embed-layernorm "
            "--bf16 --position-embedding-type alibi --checkpoint-activations --pad-vocab-size-to 250880 --lr 6e-5 "
            "--init-method-std 0.0048 --adam-beta2 0.95 --weight-decay 1e-1 --min-lr 6e-6 --lr-decay-style cosine "
            "--attention-dropout 0 --hidden-dropout 0 --zero-stage 0 "
            "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split",
        ),
        {"parameters": 176.2, "layout": (4, 12, 8, 1), "recompute": "full", "steps": 107_421, "precision": "bf16"},
    ),
    "tr1_13b": Published(
        "bigscience-workshop/bigscience train/tr1-13B-base/tr1-13B-round1.slurm",
        "tr1.slurm",
        bigscience(
            128,
            4,
            "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 4 --num-layers 40 --hidden-size 5120 "
            "--ffn-hidden-size 20480 --num-attention-heads 32 --seq-length 2048 --max-position-embeddings 2048 "
            "--micro-batch-size 1 --global-batch-size 1024 --train-samples 300_000_000 --vocab-file v --merge-file m "
            "--fp16 --checkpoint-activations --lr 1e-4 --min-lr 1e-5 --lr-decay-style cosine --zero-stage 1 "
            "--lr-decay-samples 126_953_125 --lr-warmup-samples 216_320 --weight-decay 1e-1",
        ),
        {"parameters": 12.9, "layout": (2, 4, 64, 1), "zero": 1, "batch": (1, 1024, 2048), "warmup": 211},
    ),
    "tr9_swiglu": Published(
        "bigscience-workshop/bigscience train/tr9-glu/tr9-1B3-modeling-swiglu.slurm",
        "tr9.slurm",
        bigscience(
            16,
            4,
            "--tensor-model-parallel-size 4 --pipeline-model-parallel-size 4 --num-layers 24 --hidden-size 2048 "
            "--num-attention-heads 16 --ffn-hidden-size 5456 --seq-length 2048 --max-position-embeddings 2048 "
            "--micro-batch-size 8 --global-batch-size 512 --rampup-batch-size 32 32 2_000_000 --no-bias-gelu-fusion "
            "--glu-activation swiglu --train-samples 73_242_187 --vocab-file v --merge-file m --fp16 --lr 2e-4 "
            "--checkpoint-activations --zero-stage 1",
        ),
        {"layout": (4, 4, 4, 1), "activation": "swiglu", "precision": "fp16", "batch": (8, 512, 2048)},
    ),
    "gpt_neox_20b": Published(
        "EleutherAI/gpt-neox configs/20B.yml; 96 GPUs: Black et al. 2022, section 3",
        "20B.yml",
        neox(
            pp=4, tp=2, layers=44, hidden=6144, heads=64, lr=0.97e-4, micro=4, accumulate=32, decay=0.01, steps=150_000
        ),
        {"parameters": 20.6, "layout": (2, 4, 12, 1), "zero": 1, "batch": (4, 1536, 2048), "warmup": 1500},
        ("cluster.gpus=96", "cluster=dgx_a100_40gb", "model.vocab=50432"),
    ),
    "pythia_12b": Published(
        "EleutherAI/gpt-neox configs/pythia/12B.yml",
        "12B.yml",
        neox(pp=1, tp=4, layers=36, hidden=5120, heads=40, lr=1.2e-4, micro=8, accumulate=2, decay=0.1, steps=143_000),
        {"parameters": 11.8, "layout": (4, 1, 64, 1), "batch": (8, 1024, 2048), "lr": 0.00012, "recompute": "full"},
        ("cluster.gpus=256", "model.vocab=50432"),
    ),
    "torchtitan_llama3_70b": Published(
        "pytorch/torchtitan torchtitan/models/llama3/train_configs/llama3_70b.toml",
        "llama3_70b.toml",
        "[model]\nname = 'llama3'\nflavor = '70B'\n[optimizer]\nname = 'AdamW'\nlr = 1.5e-4\neps = 1e-8\n"
        "[lr_scheduler]\nwarmup_steps = 200\n[training]\nlocal_batch_size = 8\nseq_len = 8192\nmax_norm = 1.0\n"
        "steps = 1000\n[parallelism]\ndata_parallel_shard_degree = -1\ntensor_parallel_degree = 8\n"
        "pipeline_parallel_degree = 1\n[activation_checkpoint]\nmode = 'full'\n",
        {"layout": (8, 1, 8, 1), "zero": 3, "recompute": "full", "batch": (8, 64, 8192), "lr": 1.5e-4},
        ("cluster.gpus=64", "cluster=dgx_a100_80gb"),
    ),
    "nemo_gpt_126m": Published(
        "NVIDIA/NeMo-Framework-Launcher launcher_scripts/conf/training/gpt3/126m.yaml",
        "126m.yaml",
        "trainer: {num_nodes: 8, devices: 8, precision: bf16, max_steps: 600000, gradient_clip_val: 1.0}\n"
        "model:\n  micro_batch_size: 4\n  global_batch_size: 256\n  tensor_model_parallel_size: 1\n"
        "  encoder_seq_length: 2048\n  max_position_embeddings: 2048\n  num_layers: 12\n  hidden_size: 768\n"
        "  ffn_hidden_size: ${multiply:4, ${.hidden_size}}\n  num_attention_heads: 12\n  init_method_std: 0.023\n"
        "  optim: {name: distributed_fused_adam, lr: 6e-4, weight_decay: 0.1, betas: [0.9, 0.95],\n"
        "    sched: {name: CosineAnnealing, warmup_steps: 636, min_lr: 6e-5}}\n",
        {"layout": (1, 1, 64, 1), "zero": 1, "batch": (4, 256, 2048), "warmup": 636, "lr": 6e-4},
        ("model.vocab=50257",),
    ),
    "bridge_overrides": Published(
        "NVIDIA-NeMo/Megatron-Bridge tutorials/recipes/llama/conf, an override file",
        "pretrain.yaml",
        "model: {tensor_model_parallel_size: 2, sequence_parallel: true, seq_length: 4096}\n"
        "train: {train_iters: 10, global_batch_size: 8, micro_batch_size: 1}\noptimizer: {lr: 1e-4, min_lr: 1e-5}\n"
        "scheduler: {lr_warmup_iters: 3}\nmixed_precision: bf16_mixed\n",
        {"layout": (2, 1, 4, 1), "batch": (1, 8, 4096), "steps": 10, "warmup": 3, "precision": "bf16"},
        ("model=llama3_8b", "cluster.gpus=8"),
    ),
    "deepspeed_zero3": Published(
        "deepspeedai/DeepSpeed docs/_pages/config-json.md, its example at ZeRO 3",
        "ds.json",
        DEEPSPEED,
        {"layout": (1, 1, 16, 1), "zero": 3, "batch": (2, 128, 4096), "backend": "deepspeed", "lr": 2e-5},
        HF,
    ),
    "trainer": Published(
        "hiyouga/LLaMA-Factory examples/train_full/llama3_full_sft.yaml",
        "llama3_full_sft.yaml",
        "model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct\nstage: sft\ncutoff_len: 2048\nfsdp: full_shard\n"
        "per_device_train_batch_size: 1\ngradient_accumulation_steps: 2\nlearning_rate: 1.0e-5\nmax_steps: 500\n"
        "lr_scheduler_type: cosine\nbf16: true\ngradient_checkpointing: true\n",
        {"batch": (1, 16, 2048), "recompute": "full", "lr": 1e-5, "precision": "bf16", "steps": 500},
        ("model=llama3_8b", "cluster.gpus=8"),
    ),
    "accelerate_fsdp": Published(
        "huggingface/accelerate examples/config_yaml_templates/fsdp.yaml",
        "fsdp.yaml",
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: bf16\nnum_machines: 1\n"
        "num_processes: 8\nfsdp_config:\n  fsdp_sharding_strategy: 1\n"
        "  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n",
        {"layout": (1, 1, 8, 1), "zero": 3, "precision": "bf16", "backend": "deepspeed"},
        HF,
    ),
}
"""By name; each is one file, and what its users say beside it."""
