"""Techniques as Megatron-LM flags, and the environment they need. Places: megatron-core 0.19.2, below ``megatron/``.

Their keyword arguments are what Megatron's own parser makes of the flags (``emit.megatron_extra``).
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.emit._flags import flag, switch
from meshwright.layout.plan import Plan
from meshwright.spec import EnvVariable, MegatronOptions
from meshwright.spec.techniques import ExpertOptions, MuonOptions, TpOverlap

__all__ = ["collections", "technique_flags", "technique_variables"]


def technique_flags(plan: Plan) -> list[str]:
    """Graphs, experts' kernels, 8- and 4-bit weights, offload, overlaps."""
    options = plan.spec.backend.megatron
    return [
        *_graphs(options),
        *(_experts(options) if plan.spec.model.moe else ()),
        *_quantization(plan),
        *_offload(options),
        *_fsdp(options),
        *_overlap(options.tp_overlap),
        *(_muon(options.muon) if plan.spec.training.optimizer.name == "muon" else ()),
        *switch("--delay-wgrad-compute", options.delay_wgrad),
        *switch("--overlap-param-gather-with-optimizer-step", options.gather_with_step),
        *switch("--use-transformer-engine-op-fuser", options.op_fuser),
        *_step(options),
        *flag("--empty-unused-memory-level", options.empty_cache, 0),
    ]


def technique_variables(plan: Plan) -> Iterator[tuple[str, EnvVariable]]:
    """Environment variables by name, with the reason."""
    options, cluster = plan.spec.backend.megatron, plan.spec.cluster
    if options.activation_offload.modules:
        yield "NVTE_CPU_OFFLOAD_V1", EnvVariable(value="1", why="else weights leave the GPU, too (arguments.py:1858)")
    if options.cuda_graphs.kind != "none":
        why = "registering buffers in a graph reads memory that expandable segments have moved (arguments.py:1880)"
        yield "NCCL_GRAPH_REGISTER", EnvVariable(value="0", why=why)
        yield from _priorities(plan)
    if options.cuda_graphs.kind == "full_iteration":
        why = "memory that a captured step uses again is recorded for its streams (Megatron-Bridge, perf_recipes)"
        yield "TORCH_NCCL_AVOID_RECORD_STREAMS", EnvVariable(value="0", why=why)
    if plan.spec.model.moe and options.op_fuser:
        why = "without it the op fuser leaves experts unfused (core/transformer/moe/experts.py:398)"
        yield "NVTE_CUTEDSL_FUSED_GROUPED_MLP", EnvVariable(value="1", why=why)
    if plan.spec.model.moe and options.moe_dispatcher == "flex" and options.moe_flex_backend == "hybridep":
        yield from _domain(plan, cluster.nvlink_domain or cluster.gpus_per_node)


def _domain(plan: Plan, joined: int) -> Iterator[tuple[str, EnvVariable]]:
    """Where HybridEP finds its ranks, of which NVLink joins ``joined``, and whether over nodes."""
    ranks = min(plan.grid.ep * plan.grid.etp, joined)
    why = "HybridEP's ranks that NVLink joins (Megatron-Bridge, perf_recipes)"
    yield "NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN", EnvVariable(value=str(ranks), why=why)
    yield "NVLINK_DOMAIN_SIZE", EnvVariable(value=str(joined), why="GPUs that NVLink joins, for HybridEP")
    over = joined > plan.spec.cluster.gpus_per_node
    why = "HybridEP's NVLink domain spans nodes" if over else "HybridEP's NVLink domain is a node"
    yield "USE_MNNVL", EnvVariable(value=str(int(over)), why=why)


def _priorities(plan: Plan) -> Iterator[tuple[str, EnvVariable]]:
    """Generalized tensor parallelism gathers and scatters on streams before others."""
    newer = float(plan.spec.cluster.accelerator.capability) >= 10
    if newer and plan.grid.gtp * plan.grid.egtp > 1:
        why = "a graph's nodes keep the priority of gtp's streams (arguments.py:1500)"
        yield "CUDA_GRAPHS_USE_NODE_PRIORITY", EnvVariable(value="1", why=why)


def _step(options: MegatronOptions) -> Iterator[str]:
    """What a step sums and decays, and when the host collects garbage."""
    yield from switch("--enable-experimental", options.experimental)
    yield from switch("--calculate-per-token-loss", options.per_token_loss)
    yield from flag("--ddp-bucket-size", options.bucket)
    yield from switch("--apply-wd-to-qk-layernorm", options.decay_qk_norms)
    yield from switch("--manual-gc", options.garbage.interval is not None)
    yield from flag("--manual-gc-interval", options.garbage.interval, 0)
    yield from switch("--no-manual-gc-eval", not options.garbage.evaluation)


def collections(plan: Plan) -> dict[str, bool | int]:
    """When the host collects garbage, as Megatron-Bridge's TrainingConfig has it."""
    garbage = plan.spec.backend.megatron.garbage
    return {
        "manual_gc": garbage.interval is not None,
        "manual_gc_interval": garbage.interval or 0,
        "manual_gc_eval": garbage.evaluation,
    }


def _graphs(options: MegatronOptions) -> Iterator[str]:
    """Random numbers come from Transformer Engine's tracker, whose state a graph may hold (arguments.py:1873)."""
    graphs = options.cuda_graphs
    if graphs.kind == "none":
        return
    yield from flag("--cuda-graph-impl", graphs.kind)
    if graphs.modules:
        yield from ("--cuda-graph-modules", *graphs.modules)
    yield from flag("--cuda-graph-warmup-steps", graphs.warmup, 3)
    yield "--te-rng-tracker"
    yield from switch("--no-check-for-nan-in-loss-and-grad", graphs.kind == "full_iteration")  # arguments.py:1195


def _experts(options: MegatronOptions) -> Iterator[str]:
    if options.moe_dispatcher == "flex":
        yield from flag("--moe-flex-dispatcher-backend", options.moe_flex_backend, "deepep")
        yield from flag("--moe-flex-dispatcher-num-sms", options.moe_flex_sms)
    yield from switch("--moe-router-fusion", options.moe_router_fusion)
    yield from switch("--moe-shared-expert-overlap", options.moe_shared_expert_overlap)
    yield from flag("--moe-expert-rank-capacity-factor", options.moe_rank_capacity)
    yield from switch("--moe-paged-stash", options.moe_paged_stash)
    yield from _feeding(options.experts)


def _feeding(experts: ExpertOptions) -> Iterator[str]:
    yield from switch("--moe-router-force-load-balancing", experts.balanced)
    yield from switch("--moe-router-padding-for-quantization", experts.padded)
    yield from switch("--moe-pad-expert-input-to-capacity", experts.padded_to_capacity)
    yield from flag("--moe-mlp-glu-interleave-size", experts.interleave)
    yield from switch("--high-priority-a2a-comm-stream", experts.priority_stream)
    yield from switch("--moe-permute-fusion-into-hybridep", experts.permute_in_dispatch)
    yield from flag("--moe-hybridep-num-sms-preprocessing", experts.preprocessing_sms, 108)
    yield from switch("--overlap-dispatch-backward-with-experts-wgrad", experts.wgrad_beside_dispatch)
    yield from switch("--ep-overlap-early-attn-memory-release", experts.early_release)
    yield from flag("--moe-paged-stash-buffer-size-factor-cuda", experts.stash_gpu, 1.1)
    yield from flag("--moe-paged-stash-buffer-size-factor-cpu", experts.stash_host, 0.0)


def _quantization(plan: Plan) -> Iterator[str]:
    details, four = plan.spec.backend.megatron.quantization, plan.spec.training.precision == "nvfp4"
    yield from switch("--fp4-param-gather" if four else "--fp8-param-gather", details.param_gather)
    yield from switch("--reuse-grad-buf-for-mxfp8-param-ag", details.reuse_gradient_buffer)
    if details.first_layers_bf16 or details.last_layers_bf16:
        yield "--first-last-layers-bf16"
        yield from flag("--num-layers-at-start-in-bf16", details.first_layers_bf16, 1)
        yield from flag("--num-layers-at-end-in-bf16", details.last_layers_bf16, 1)
    yield from switch("--fp8-output-proj", details.output_projection)
    yield from flag("--fp8-amax-history-len", details.amax_history, 1)
    yield from flag("--fp8-amax-compute-algo", details.amax, "most_recent")


def _offload(options: MegatronOptions) -> Iterator[str]:
    activations, optimizer = options.activation_offload, options.optimizer_offload
    if activations.modules:
        yield from ("--fine-grained-activation-offloading", "--offload-modules", *activations.modules)
        yield from flag("--activation-offload-fraction", activations.fraction, 1.0)
        yield from flag("--min-offloaded-tensor-size", activations.min_elements, 1_048_576)
        yield from flag("--fine-grained-offloading-max-inflight-offloads", activations.inflight)
        yield from switch("--delay-offload-until-cuda-graph", activations.delayed)
    yield from flag("--cpu-offloading-num-layers", activations.layers, 0)
    if optimizer.fraction:
        yield "--optimizer-cpu-offload"
        yield from flag("--optimizer-offload-fraction", optimizer.fraction, 1.0)
        yield from switch("--overlap-cpu-optimizer-d2h-h2d", optimizer.overlap)


def _fsdp(options: MegatronOptions) -> Iterator[str]:
    """Megatron's own hook registers buffers with NCCL, as its command line would have it (arguments.py:1149)."""
    fsdp = options.megatron_fsdp
    yield from switch("--fsdp-double-buffer", fsdp.double_buffer)
    if fsdp.nccl_buffers:
        yield from ("--use-nccl-ub", "--fsdp-manual-registration")
    yield from switch("--disable-symmetric-registration", not fsdp.symmetric_buffers)
    yield from switch("--megatron-fsdp-max-pool-double-buffer", fsdp.pooled_buffers)
    yield from switch("--fsdp-db-use-persist-buf-on-alloc-fail", fsdp.persistent_fallback)
    yield from switch("--keep-fp8-transpose-cache", fsdp.transpose_cache)
    yield from flag("--outer-dp-sharding-strategy", "optim" if fsdp.outer_optimizer else "no_shard", "no_shard")
    yield from switch("--init-model-with-meta-device", fsdp.meta_device)
    yield from flag("--suggested-communication-unit-size", fsdp.unit_size)


def _overlap(overlap: TpOverlap) -> Iterator[str]:
    """What no file says: the file is ``emit.megatron_files``'."""
    yield from flag("--tp-comm-bootstrap-backend", overlap.bootstrap, "nccl")
    yield from switch("--no-tp-comm-overlap-ag", not overlap.gather)
    yield from switch("--no-tp-comm-overlap-rs", not overlap.scatter)
    yield from switch("--tp-comm-overlap-rs-dgrad", overlap.scatter_dgrad)
    yield from switch("--no-tp-comm-bulk-dgrad", not overlap.bulk_dgrad)
    yield from switch("--no-tp-comm-bulk-wgrad", not overlap.bulk_wgrad)


def _muon(muon: MuonOptions) -> Iterator[str]:
    yield from switch("--muon-nesterov", muon.nesterov)
    yield from flag("--muon-num-ns-steps", muon.steps, 5)
    yield from flag("--muon-coefficient-type", muon.coefficients, "quintic")
    yield from flag("--muon-scale-mode", muon.scale, "spectral")
    yield from flag("--muon-extra-scale-factor", muon.extra_scale, 1.0)
    yield from flag("--muon-fp32-matmul-prec", muon.products, "medium")
    yield from switch("--muon-no-split-qkv", not muon.split_qkv)
    yield from flag("--muon-tp-mode", muon.tp_mode, "blockwise")
    yield from flag("--muon-scalar-optimizer", muon.scalars, "adam")
