"""Which key of the configuration decides a flag of Megatron's: given through ``extra``, it would win silently."""

from __future__ import annotations

__all__ = ["KEYS", "contradictions"]

_FLAGS = {
    "launch.resiliency.launcher": "enable-ft-package",
    "launch.resiliency.learn_timeouts": "calc-ft-timeouts",
    "parallelism.tp": "tensor-model-parallel-size",
    "parallelism.sp": "sequence-parallel",
    "parallelism.pp": "pipeline-model-parallel-size",
    "parallelism.vpp": "num-virtual-stages-per-pipeline-rank num-layers-per-virtual-pipeline-stage",
    "parallelism.cp": "context-parallel-size",
    "parallelism.ep": "expert-model-parallel-size",
    "parallelism.etp": "expert-tensor-parallel-size",
    "parallelism.gtp": "tensor-parallel-num-weight-shards",
    "parallelism.egtp": "expert-tensor-parallel-num-weight-shards",
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
    "parallelism.cp_levels": "hierarchical-context-parallel-sizes",
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
    "training.precision": "bf16 fp16 fp8-format fp8-recipe fp4-format fp4-recipe",
    "training.grad_reduce": "accumulate-allreduce-grads-in-fp32 grad-reduce-in-bf16",
    "training.seed": "seed",
    "training.optimizer": (
        "optimizer lr weight-decay adam-beta1 adam-beta2 adam-eps clip-grad sgd-momentum muon-momentum"
    ),
    "training.optimizer.qk_clip": "qk-clip qk-clip-threshold",
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
        "hidden-dropout init-method-std window-size window-attn-skip-freq use-mup mup-base-head-dim mup-embedding-mult "
        "mup-output-mult quick-geglu activation-func-clamp-value glu-linear-offset qk-l2-norm softmax-type"
    ),
    "model.rope": (
        "position-embedding-type rotary-base rotary-percent rotary-scaling-factor rotary-seq-len-interpolation-factor "
        "rope-type rope-scaling-factor use-rope-scaling no-rope-freq mscale mscale-all-dim "
        "yarn-original-max-position-embeddings yarn-beta-fast yarn-beta-slow no-yarn-correction-range-round-to-int"
    ),
    "model.attention_gate": "attention-output-gate",
    "model.mla": "multi-latent-attention q-lora-rank kv-lora-rank qk-head-dim qk-pos-emb-head-dim v-head-dim",
    "model.pattern": "hybrid-layer-pattern hybrid-override-pattern linear-attention-freq",
    "model.indexer": (
        "dsa-indexer-n-heads dsa-indexer-head-dim dsa-indexer-topk dsa-indexer-rope-interleaved dsa-indexer-loss-coeff "
        "dsa-indexer-use-sparse-loss no-dsa-indexer-rotate-activation dsa-indexer-k-norm-epsilon"
    ),
    "model.delta_net": (
        "linear-num-key-heads linear-num-value-heads linear-key-head-dim linear-value-head-dim linear-conv-kernel-dim"
    ),
    "model.mamba": "mamba-num-heads mamba-head-dim mamba-num-groups mamba-state-dim",
    "model.mtp": "mtp-num-layers mtp-loss-scaling-factor mtp-use-repeated-layer mtp-detach-heads",
    "model.moe": (
        "num-experts moe-layer-freq moe-ffn-hidden-size moe-router-topk moe-aux-loss-coeff moe-z-loss-coeff "
        "moe-expert-capacity-factor moe-token-drop-policy moe-router-bias-update-rate moe-router-dtype "
        "moe-router-enable-expert-bias moe-router-group-topk moe-router-num-groups moe-router-load-balancing-type "
        "moe-router-pre-softmax moe-router-quantile-balancing-ema moe-router-score-function "
        "moe-router-topk-scaling-factor moe-shared-expert-gate moe-shared-expert-intermediate-size "
        "moe-apply-probs-on-input moe-latent-size use-fused-weighted-squared-relu"
    ),
    "backend.megatron.attention": "attention-backend",
    "backend.megatron.transformer": "transformer-impl",
    "backend.megatron.dsa_kernels": "dsa-kernel-backend",
    "backend.megatron.moe_dispatcher": "moe-token-dispatcher-type",
    "backend.megatron.moe_grouped_gemm": "moe-grouped-gemm",
    "backend.megatron.moe_permute_fusion": "moe-permute-fusion",
    "backend.megatron.vocab_divisor": "make-vocab-size-divisible-by",
    "backend.megatron.checkpoint_format": "ckpt-format",
    "backend.megatron.gradient_accumulation_fusion": "no-gradient-accumulation-fusion",
    "backend.megatron.cross_entropy_fusion": "cross-entropy-loss-fusion",
    "backend.megatron.precision_aware_optimizer": "use-precision-aware-optimizer",
    "backend.megatron.optimizer_moments": "exp-avg-dtype exp-avg-sq-dtype",
    "backend.megatron.optimizer_master": "main-params-dtype",
    "backend.megatron.optimizer_gradients": "main-grads-dtype",
    "backend.megatron.megatron_fsdp": (
        "fsdp-double-buffer use-nccl-ub fsdp-manual-registration outer-dp-sharding-strategy keep-fp8-transpose-cache "
        "disable-symmetric-registration megatron-fsdp-max-pool-double-buffer fsdp-db-use-persist-buf-on-alloc-fail "
        "init-model-with-meta-device suggested-communication-unit-size"
    ),
    "backend.megatron.checkpoint_parallel_load": "ckpt-fully-parallel-load",
    "backend.megatron.checkpoint_reshardable": "dist-ckpt-optim-fully-reshardable",
    "backend.megatron.empty_cache": "empty-unused-memory-level",
    "backend.megatron.groups.high_priority": "high-priority-stream-groups",
    "backend.megatron.groups.nccl_config": "nccl-communicator-config-path",
    "backend.megatron.groups.sharp": "use-sharp sharp-enabled-group",
    "backend.megatron.groups.timeout_minutes": "distributed-timeout-minutes",
    "backend.megatron.muon": (
        "muon-nesterov muon-num-ns-steps muon-coefficient-type muon-scale-mode muon-extra-scale-factor "
        "muon-fp32-matmul-prec muon-no-split-qkv muon-tp-mode muon-scalar-optimizer"
    ),
    "backend.megatron.spec": "spec",
    "backend.megatron.moe_flex_backend": "moe-flex-dispatcher-backend",
    "backend.megatron.moe_flex_sms": "moe-flex-dispatcher-num-sms moe-deepep-num-sms moe-hybridep-num-sms",
    "backend.megatron.moe_router_fusion": "moe-router-fusion",
    "backend.megatron.moe_shared_expert_overlap": "moe-shared-expert-overlap",
    "backend.megatron.moe_rank_capacity": "moe-expert-rank-capacity-factor",
    "backend.megatron.moe_paged_stash": "moe-paged-stash",
    "backend.megatron.experts.balanced": "moe-router-force-load-balancing",
    "backend.megatron.experts.padded": "moe-router-padding-for-quantization moe-router-padding-for-fp8",
    "backend.megatron.experts.padded_to_capacity": "moe-pad-expert-input-to-capacity",
    "backend.megatron.experts.interleave": "moe-mlp-glu-interleave-size",
    "backend.megatron.experts.priority_stream": "high-priority-a2a-comm-stream",
    "backend.megatron.experts.permute_in_dispatch": "moe-permute-fusion-into-hybridep",
    "backend.megatron.experts.preprocessing_sms": "moe-hybridep-num-sms-preprocessing",
    "backend.megatron.experts.wgrad_beside_dispatch": "overlap-dispatch-backward-with-experts-wgrad",
    "backend.megatron.experts.early_release": "ep-overlap-early-attn-memory-release",
    "backend.megatron.experts.stash_gpu": "moe-paged-stash-buffer-size-factor-cuda",
    "backend.megatron.experts.stash_host": "moe-paged-stash-buffer-size-factor-cpu",
    "backend.megatron.op_fuser": "use-transformer-engine-op-fuser",
    "backend.megatron.experimental": "enable-experimental",
    "backend.megatron.per_token_loss": "calculate-per-token-loss",
    "backend.megatron.bucket": "ddp-bucket-size",
    "backend.megatron.decay_qk_norms": "apply-wd-to-qk-layernorm no-weight-decay-cond-type",
    "backend.megatron.garbage.interval": "manual-gc manual-gc-interval",
    "backend.megatron.garbage.evaluation": "no-manual-gc-eval",
    "backend.megatron.delay_wgrad": "delay-wgrad-compute",
    "backend.megatron.gather_with_step": "overlap-param-gather-with-optimizer-step",
    "backend.megatron.cuda_graphs.kind": "cuda-graph-impl enable-cuda-graph external-cuda-graph",
    "backend.megatron.cuda_graphs.modules": "cuda-graph-modules cuda-graph-scope",
    "backend.megatron.cuda_graphs.warmup": "cuda-graph-warmup-steps",
    "backend.megatron.quantization.param_gather": "fp8-param-gather fp4-param-gather",
    "backend.megatron.quantization.reuse_gradient_buffer": "reuse-grad-buf-for-mxfp8-param-ag",
    "backend.megatron.quantization.first_layers_bf16": "first-last-layers-bf16 num-layers-at-start-in-bf16",
    "backend.megatron.quantization.last_layers_bf16": "num-layers-at-end-in-bf16",
    "backend.megatron.quantization.output_projection": "fp8-output-proj",
    "backend.megatron.quantization.modules": "te-precision-config-file",
    "backend.megatron.quantization.amax_history": "fp8-amax-history-len",
    "backend.megatron.quantization.amax": "fp8-amax-compute-algo",
    "backend.megatron.tp_overlap": (
        "tp-comm-overlap-cfg tp-comm-bootstrap-backend no-tp-comm-overlap-ag disable-tp-comm-overlap-ag "
        "no-tp-comm-overlap-rs disable-tp-comm-overlap-rs tp-comm-overlap-rs-dgrad no-tp-comm-bulk-dgrad "
        "disable-tp-comm-bulk-dgrad no-tp-comm-bulk-wgrad disable-tp-comm-bulk-wgrad"
    ),
    "backend.megatron.activation_offload.modules": "fine-grained-activation-offloading offload-modules",
    "backend.megatron.activation_offload.fraction": "activation-offload-fraction",
    "backend.megatron.activation_offload.min_elements": "min-offloaded-tensor-size",
    "backend.megatron.activation_offload.inflight": "fine-grained-offloading-max-inflight-offloads",
    "backend.megatron.activation_offload.layers": "cpu-offloading-num-layers",
    "backend.megatron.activation_offload.delayed": "delay-offload-until-cuda-graph",
    "backend.megatron.optimizer_offload.fraction": "optimizer-cpu-offload optimizer-offload-fraction",
    "backend.megatron.optimizer_offload.overlap": "overlap-cpu-optimizer-d2h-h2d",
}

FREE = frozenset(
    {
        "--experimental-attention-variant",
        "--log-throughput",
        "--no-bias-gelu-fusion",
        "--no-bias-swiglu-fusion",
        "--no-create-attention-mask-in-dataloader",
        "--no-rope-fusion",
        "--te-rng-tracker",
        "--no-check-for-nan-in-loss-and-grad",
    }
)
"""Flags we emit that no key decides: given twice they say the same."""

KEYS = {f"--{flag}": key for key, flags in _FLAGS.items() for flag in flags.split()}
"""The key for each flag."""


def contradictions(extra: tuple[str, ...]) -> list[str]:
    """``FLAG is KEY`` for each flag among ``extra`` that a key of ours decides."""
    flags = [word.split("=")[0] for word in extra if word.startswith("--")]
    return [f"{flag} is {KEYS[flag]}" for flag in flags if flag in KEYS]
