"""What the fastest runs switch on, as layouts: by name, what each changes of eight Blackwell GPUs with experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from builders import small_model, spec
from meshwright.resolver import override
from meshwright.spec import Accelerator, Spec
from meshwright.spec.model import Moe

__all__ = [
    "BITS",
    "CAPPED",
    "DENSE",
    "FED",
    "FSDP",
    "GOOD",
    "GRAPH",
    "GROUPS",
    "HOST",
    "HYBRID",
    "MOE",
    "MXFP8",
    "OFFLOAD",
    "ROUTER",
    "SELECTIVE",
    "STATIC",
    "B",
    "P",
    "T",
    "described",
]

B, P, T = "backend.megatron.", "parallelism.", "training."
MOE = Moe(experts=8, topk=2, ffn=64, shared_ffn=64, first_dense=1)
CAPPED = replace(MOE, capacity_factor=1.0)
FED, GRAPH, OFFLOAD, HOST, BITS, FSDP, GROUPS = (
    B + "experts.",
    B + "cuda_graphs.",
    B + "activation_offload.",
    B + "optimizer_offload.",
    B + "quantization.",
    B + "megatron_fsdp.",
    B + "groups.",
)
HYBRID = {B + "moe_dispatcher": "flex", B + "moe_flex_backend": "hybridep"}
STATIC = {**HYBRID, B + "moe_rank_capacity": 1.5, B + "op_fuser": True}
MXFP8 = {T + "precision": "mxfp8", BITS + "param_gather": True}
ROUTER = ("attn", "moe_router", "moe_preprocess")
DENSE = {"model.moe": None, P + "ep": 1}
SELECTIVE = {P + "recompute": "selective"}


def described(changes: Mapping[str, Any]) -> Spec:
    """Eight Blackwell GPUs, experts, ZeRO-1."""
    made = spec(small_model(moe=MOE), 8, global_batch=16, zero=1, ep=2)
    blackwell = Accelerator(**{**vars(made.cluster.accelerator), "name": "B200", "capability": "10.0"})
    made = override(made, "cluster.accelerator", blackwell)
    for path, value in changes.items():
        made = override(made, path, value)
    return made


GOOD: Mapping[str, Mapping[str, Any]] = {
    "graphs of parts of layers": {GRAPH + "kind": "transformer_engine", GRAPH + "modules": ROUTER},
    "graphs of an iteration": {
        GRAPH + "kind": "full_iteration",
        GRAPH + "warmup": 2,
        **STATIC,
        B + "moe_paged_stash": True,
    },
    "HybridEP": {**HYBRID, B + "moe_flex_sms": 16, B + "moe_router_fusion": True, B + "moe_permute_fusion": True},
    "experts fed by HybridEP": {
        **STATIC,
        **MXFP8,
        P + "overlap_ep": True,
        B + "moe_paged_stash": True,
        FED + "balanced": True,
        FED + "padded": True,
        FED + "interleave": 32,
        FED + "priority_stream": True,
        FED + "permute_in_dispatch": True,
        FED + "preprocessing_sms": 32,
        FED + "stash_gpu": 1.2,
        FED + "stash_host": 1.0,
    },
    "experts padded to a capacity": {
        "model.moe": replace(MOE, capacity_factor=1.5, drop_policy="position"),
        FED + "padded_to_capacity": True,
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ROUTER,
    },
    "experts padded in a captured step": {
        **HYBRID,
        "model.moe": CAPPED,
        FED + "padded_to_capacity": True,
        GRAPH + "kind": "full_iteration",
    },
    "padded experts in graphs of their own": {
        "model.moe": CAPPED,
        FED + "padded_to_capacity": True,
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ("attn", "moe"),
    },
    "NCCL EP": {**STATIC, B + "moe_flex_backend": "ncclep"},
    "shared experts beside the dispatch": {B + "moe_shared_expert_overlap": True},
    "hidden all-to-all": {P + "overlap_ep": True, B + "delay_wgrad": True, B + "moe_dispatcher": "flex"},
    "attention released early": {P + "overlap_ep": True, FED + "early_release": True},
    "weight gradients beside the dispatch": {P + "zero": 3, FED + "wgrad_beside_dispatch": True},
    "mxfp8": {
        **MXFP8,
        BITS + "reuse_gradient_buffer": True,
        BITS + "first_layers_bf16": 1,
        BITS + "output_projection": True,
    },
    "nvfp4": {T + "precision": "nvfp4", BITS + "param_gather": True, BITS + "last_layers_bf16": 2},
    "activations on the host": {OFFLOAD + "modules": ("core_attn", "attn_proj", "moe_act"), OFFLOAD + "fraction": 0.5},
    "large ones alone": {OFFLOAD + "modules": ("moe_act",), OFFLOAD + "min_elements": 350_000_000},
    "copies behind graphs": {
        OFFLOAD + "modules": ("expert_fc1",),
        OFFLOAD + "delayed": True,
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ("attn",),
        GRAPH + "warmup": 1,
    },
    "delayed scales": {T + "precision": "fp8_delayed", BITS + "amax_history": 1024, BITS + "amax": "max"},
    "what a step sums, decays and collects": {
        "model.qk_norm": "head",
        B + "experimental": True,
        B + "per_token_loss": True,
        B + "bucket": 134_217_728,
        B + "decay_qk_norms": True,
        B + "garbage.interval": 100,
        B + "garbage.evaluation": False,
    },
    "the optimizer on the host": {
        HOST + "fraction": 0.5,
        HOST + "overlap": True,
        B + "precision_aware_optimizer": True,
    },
    "parameters gathered with the step": {
        B + "gather_with_step": True,
        B + "checkpoint_format": "torch",
        P + "pp": 2,
        P + "vpp": 2,
    },
    "Megatron-FSDP's buffers": {
        **DENSE,
        P + "zero": 3,
        P + "optimizer_instances": 2,
        FSDP + "double_buffer": True,
        FSDP + "nccl_buffers": True,
        FSDP + "outer_optimizer": True,
        FSDP + "meta_device": True,
        FSDP + "unit_size": 800_000_000,
        B + "bucket": 134_217_728,
        B + "per_token_loss": True,
    },
    "transposes kept by Megatron-FSDP": {
        P + "zero": 3,
        T + "precision": "fp8_tensorwise",
        BITS + "param_gather": True,
        FSDP + "transpose_cache": True,
    },
    "groups with options": {
        GROUPS + "high_priority": ("ep", "dp_cp"),
        GROUPS + "nccl_config": "/nodes/nccl.yaml",
        GROUPS + "sharp": "dp",
        GROUPS + "timeout_minutes": 60,
    },
    "checkpoints for any layout": {
        B + "checkpoint_parallel_load": True,
        B + "checkpoint_reshardable": True,
        B + "empty_cache": 2,
    },
    "states in 16 bits": {
        B + "precision_aware_optimizer": True,
        B + "optimizer_moments": "bf16",
        B + "optimizer_master": "fp16",
        B + "optimizer_gradients": "bf16",
        T + "grad_reduce": "bf16",
    },
}
