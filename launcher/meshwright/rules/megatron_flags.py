"""Which key of the configuration decides a flag of Megatron's: given through ``extra``, it would win silently."""

from __future__ import annotations

__all__ = ["KEYS", "contradictions"]

_FLAGS = {
    "parallelism.tp": "tensor-model-parallel-size",
    "parallelism.sp": "sequence-parallel",
    "parallelism.pp": "pipeline-model-parallel-size",
    "parallelism.vpp": "num-virtual-stages-per-pipeline-rank num-layers-per-virtual-pipeline-stage",
    "parallelism.cp": "context-parallel-size",
    "parallelism.ep": "expert-model-parallel-size",
    "parallelism.etp": "expert-tensor-parallel-size",
    "parallelism.zero": (
        "use-distributed-optimizer use-megatron-fsdp use-torch-fsdp2 data-parallel-sharding-strategy "
        "torch-fsdp2-no-reshard-after-forward"
    ),
    "parallelism.recompute": "recompute-granularity recompute-activations",
    "parallelism.recompute_method": "recompute-method",
    "parallelism.recompute_layers": "recompute-num-layers",
    "parallelism.recompute_modules": "recompute-modules",
    "parallelism.pipeline_split": (
        "account-for-embedding-in-pipeline-split account-for-loss-in-pipeline-split decoder-first-pipeline-num-layers "
        "decoder-last-pipeline-num-layers pipeline-model-parallel-layout"
    ),
    "parallelism.order": "use-tp-pp-dp-mapping",
    "parallelism.cp_comm": "cp-comm-type",
    "parallelism.optimizer_instances": "num-distributed-optimizer-instances",
    "parallelism.microbatch_group": "microbatch-group-size-per-virtual-pipeline-stage",
    "parallelism.overlap_grad_reduce": "overlap-grad-reduce",
    "parallelism.overlap_param_gather": "overlap-param-gather",
    "parallelism.overlap_p2p": "no-overlap-p2p-communication",
    "parallelism.overlap_tp": "tp-comm-overlap",
    "parallelism.overlap_ep": "overlap-moe-expert-parallel-comm",
    "training.micro_batch": "micro-batch-size",
    "training.global_batch": "global-batch-size",
    "training.ramp": "step-batch-size-schedule rampup-batch-size",
    "training.sequence": "seq-length",
    "training.steps": "train-iters train-samples",
    "training.precision": "bf16 fp16 fp8-format fp8-recipe",
    "training.grad_reduce": "accumulate-allreduce-grads-in-fp32 grad-reduce-in-bf16",
    "training.seed": "seed",
    "training.optimizer": "optimizer lr weight-decay adam-beta1 adam-beta2 adam-eps clip-grad sgd-momentum",
    "training.schedule": (
        "lr-decay-style lr-decay-iters lr-decay-samples lr-warmup-iters lr-warmup-samples min-lr lr-wsd-decay-style "
        "lr-wsd-decay-iters lr-wsd-decay-samples"
    ),
    "training.data": "data-path mock-data split data-cache-path num-workers tokenizer-type tokenizer-model",
    "training.evaluation": "eval-interval eval-iters eval-global-batch-size",
    "training.logging": (
        "save load save-interval log-interval tensorboard-dir wandb-project wandb-exp-name exit-signal-handler "
        "async-save use-persistent-ckpt-worker async-strategy"
    ),
    "model": (
        "num-layers hidden-size ffn-hidden-size num-attention-heads num-query-groups group-query-attention kv-channels "
        "vocab-size max-position-embeddings normalization norm-epsilon apply-layernorm-1p add-qkv-bias "
        "disable-bias-linear qk-layernorm swiglu squared-relu untie-embeddings-and-output-weights attention-dropout "
        "hidden-dropout init-method-std window-size window-attn-skip-freq use-mup mup-base-head-dim mup-embedding-mult"
    ),
    "model.rope": (
        "position-embedding-type rotary-base rotary-percent rotary-scaling-factor rotary-seq-len-interpolation-factor "
        "rope-type rope-scaling-factor use-rope-scaling no-rope-freq mscale mscale-all-dim"
    ),
    "model.mla": "multi-latent-attention q-lora-rank kv-lora-rank qk-head-dim qk-pos-emb-head-dim v-head-dim",
    "model.mtp": "mtp-num-layers mtp-loss-scaling-factor",
    "model.moe": (
        "num-experts moe-layer-freq moe-ffn-hidden-size moe-router-topk moe-aux-loss-coeff moe-z-loss-coeff "
        "moe-expert-capacity-factor moe-router-bias-update-rate moe-router-dtype moe-router-enable-expert-bias "
        "moe-router-group-topk moe-router-num-groups moe-router-load-balancing-type moe-router-pre-softmax "
        "moe-router-score-function moe-router-topk-scaling-factor moe-shared-expert-gate "
        "moe-shared-expert-intermediate-size"
    ),
    "backend.megatron.attention": "attention-backend",
    "backend.megatron.transformer": "transformer-impl",
    "backend.megatron.moe_dispatcher": "moe-token-dispatcher-type",
    "backend.megatron.moe_grouped_gemm": "moe-grouped-gemm",
    "backend.megatron.moe_permute_fusion": "moe-permute-fusion",
    "backend.megatron.vocab_divisor": "make-vocab-size-divisible-by",
    "backend.megatron.checkpoint_format": "ckpt-format",
    "backend.megatron.gradient_accumulation_fusion": "no-gradient-accumulation-fusion",
    "backend.megatron.cross_entropy_fusion": "cross-entropy-loss-fusion",
    "backend.megatron.precision_aware_optimizer": "use-precision-aware-optimizer",
    "backend.megatron.optimizer_moments": "exp-avg-dtype exp-avg-sq-dtype",
    "backend.megatron.spec": "spec",
}

FREE = frozenset({"--log-throughput", "--no-bias-gelu-fusion", "--no-bias-swiglu-fusion", "--no-rope-fusion"})
"""Flags we emit that no key decides: given twice they say the same."""

KEYS = {f"--{flag}": key for key, flags in _FLAGS.items() for flag in flags.split()}
"""The key for each flag."""


def contradictions(extra: tuple[str, ...]) -> list[str]:
    """``FLAG is KEY`` for each flag among ``extra`` that a key of ours decides."""
    flags = [word.split("=")[0] for word in extra if word.startswith("--")]
    return [f"{flag} is {KEYS[flag]}" for flag in flags if flag in KEYS]
