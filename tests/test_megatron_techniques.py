"""What the fastest runs switch on: emitted, read back, and refused where Megatron's own checks refuse it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.emit.megatron import environment, flags
from meshwright.resolver import override, refusals, resolve
from meshwright.rules.megatron_graphs import RULES as GRAPHS
from meshwright.rules.megatron_techniques import RULES
from meshwright.spec import Accelerator, Spec
from meshwright.spec.model import Moe
from meshwright.verify.pool import Crash, fork_map

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

BROKEN: Mapping[str, Mapping[str, Any]] = {
    "flex_backend": {B + "moe_flex_backend": "ncclep"},
    "flex_sms": {B + "moe_flex_sms": 16},
    "ncclep": {B + "moe_dispatcher": "flex", B + "moe_flex_backend": "ncclep"},
    "router_fusion": {B + "moe_router_fusion": True, B + "transformer": "local"},
    "shared_overlap": {B + "moe_shared_expert_overlap": True, P + "overlap_ep": True},
    "latent_overlap": {B + "moe_shared_expert_overlap": True, "model.moe": replace(MOE, latent=32)},
    "rank_capacity": {B + "moe_rank_capacity": 1.5},
    "paged_stash": {B + "moe_paged_stash": True},
    "padded": {FED + "padded": True},
    "capacity_balancing": {"model.moe": replace(CAPPED, balancing="sinkhorn")},
    "padded_to_capacity": {FED + "padded_to_capacity": True},
    "padding_dispatcher": {"model.moe": CAPPED, B + "moe_dispatcher": "flex", FED + "padded_to_capacity": True},
    "ncclep_capacity": {"model.moe": CAPPED, **STATIC, B + "moe_flex_backend": "ncclep"},
    "padded_once": {"model.moe": CAPPED, **STATIC, FED + "padded_to_capacity": True},
    "priority_stream": {FED + "priority_stream": True},
    "in_dispatch": {FED + "permute_in_dispatch": True},
    "stash_size": {FED + "stash_host": 1.0},
    "op_fuser": {B + "op_fuser": True, B + "transformer": "local"},
    "param_gather": {BITS + "param_gather": True},
    "reuse_gradient_buffer": {BITS + "reuse_gradient_buffer": True},
    "bf16_layers": {T + "precision": "fp8_delayed", BITS + "first_layers_bf16": 1},
    "amax_history": {BITS + "amax_history": 1024},
    "output_projection": {T + "precision": "fp8_blockwise", BITS + "output_projection": True},
    "offload_modules": {OFFLOAD + "modules": ("attn_proj",)},
    "offload_recomputed": {OFFLOAD + "modules": ("core_attn",), **SELECTIVE},
    "offload_graphs": {
        OFFLOAD + "modules": ("core_attn",),
        GRAPH + "kind": "local",
        GRAPH + "modules": ("attn",),
    },
    "offload_part": {OFFLOAD + "fraction": 0.5},
    "offload_layers": {OFFLOAD + "layers": 2, **SELECTIVE},
    "offload_delayed": {OFFLOAD + "modules": ("core_attn",), OFFLOAD + "delayed": True},
    "graphs_warmup": {
        OFFLOAD + "modules": ("expert_fc1",),
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ("attn",),
        GRAPH + "warmup": 0,
    },
    "host_optimizer": {HOST + "fraction": 1.0},
    "offload_overlap": {HOST + "overlap": True},
    "delay_wgrad": {B + "delay_wgrad": True},
    "wgrad_beside_dispatch": {P + "zero": 3, P + "overlap_ep": True, FED + "wgrad_beside_dispatch": True},
    "early_release": {FED + "early_release": True},
    "gather_with_step": {B + "gather_with_step": True},
    "double_buffer": {FSDP + "double_buffer": True},
    "nccl_buffers": {**DENSE, P + "zero": 3, FSDP + "nccl_buffers": True},
    "symmetric_buffers": {**DENSE, P + "zero": 3, FSDP + "symmetric_buffers": False},
    "pooled_buffers": {**DENSE, P + "zero": 3, FSDP + "pooled_buffers": True},
    "transpose_cache": {P + "zero": 3, FSDP + "transpose_cache": True},
    "meta_device": {FSDP + "meta_device": True},
    "unit_size": {FSDP + "unit_size": 800_000_000},
    "bucket": {B + "bucket": 134_217_728, P + "overlap_grad_reduce": False},
    "per_token_loss": {**DENSE, P + "zero": 3, B + "fsdp": "torch", B + "per_token_loss": True},
    "decay_qk_norms": {B + "decay_qk_norms": True},
    "garbage": {B + "garbage.evaluation": False},
    "high_priority": {GROUPS + "high_priority": ("ep", "all")},
    "sharp_replicas": {GROUPS + "sharp": "dp_replica"},
    "parallel_load": {B + "checkpoint_format": "torch", B + "checkpoint_parallel_load": True},
    "reshardable": {P + "zero": 0, B + "checkpoint_reshardable": True},
    "outer_optimizer": {**DENSE, P + "zero": 3, FSDP + "outer_optimizer": True},
    "master": {B + "optimizer_master": "fp16"},
    "main_gradients": {B + "optimizer_gradients": "bf16"},
    "graphs_modules": {**DENSE, GRAPH + "kind": "full_iteration", GRAPH + "modules": ("attn",)},
    "graphs_router_or_moe": {GRAPH + "kind": "transformer_engine", GRAPH + "modules": ("moe", "moe_router")},
    "graphs_preprocess": {GRAPH + "kind": "transformer_engine", GRAPH + "modules": ("attn", "moe_preprocess")},
    "graphs_experts": {**DENSE, GRAPH + "kind": "transformer_engine", GRAPH + "modules": ("moe_router",)},
    "graphs_mamba": {GRAPH + "kind": "transformer_engine", GRAPH + "modules": ("attn", "mamba")},
    "graphs_dense": {
        "model.moe": replace(MOE, first_dense=0),
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ("mlp",),
    },
    "graphs_dropless": {GRAPH + "kind": "transformer_engine", GRAPH + "modules": ("moe",)},
    "graphs_static_preprocess": {
        "model.moe": CAPPED,
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ROUTER,
    },
    "graphs_static_experts": {GRAPH + "kind": "full_iteration"},
    "graphs_recompute": {
        P + "recompute": "full",
        P + "recompute_method": "uniform",
        P + "recompute_layers": 1,
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ROUTER,
    },
    "graphs_router_recompute": {
        **SELECTIVE,
        P + "recompute_modules": ("moe",),
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ROUTER,
    },
    "graphs_dropout": {
        **SELECTIVE,
        "model.attention_dropout": 0.1,
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ROUTER,
    },
    "graphs_overlap": {P + "overlap_ep": True, GRAPH + "kind": "transformer_engine", GRAPH + "modules": ("mlp",)},
    "graphs_sharded_overlap": {
        P + "zero": 3,
        P + "overlap_ep": True,
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ROUTER,
    },
    "graphs_weight_gradients": {
        P + "overlap_ep": True,
        B + "delay_wgrad": True,
        GRAPH + "kind": "transformer_engine",
        GRAPH + "modules": ROUTER,
    },
}

OURS = {
    "flex_backend": "it would be lost",
    "flex_sms": "it would be lost",
    "ncclep_capacity": "dropped choices would be sent: test_expert_capacity.py",
    "padded_once": "sizes would disagree",
    "priority_stream": "it would be lost",
    "in_dispatch": "it would be lost",
    "stash_size": "it would be lost",
    "reuse_gradient_buffer": "the data-parallel configuration says so when it wraps the model",
    "offload_part": "it would be lost",
    "offload_recomputed": "it would be lost",
    "offload_overlap": "it would be lost",
    "offload_delayed": "it would be lost",
    "amax_history": "it would be lost",
    "meta_device": "weights would be what the memory holds",
    "unit_size": "it would be lost",
    "bucket": "it would be lost",
    "per_token_loss": "gradients would be divided by the ranks, too",
    "decay_qk_norms": "it would be lost",
    "garbage": "it would be lost",
    "double_buffer": "it would be lost",
    "nccl_buffers": "the double buffers are turned on",
    "latent_overlap": "the layer says so in the first step",
    "symmetric_buffers": "it would be lost",
    "pooled_buffers": "it would be lost",
    "transpose_cache": "it would be lost",
    "high_priority": "it would be lost",
    "sharp_replicas": "groups say so when they are made",
    "parallel_load": "it would be lost",
    "reshardable": "it would be lost",
    "outer_optimizer": "Megatron-FSDP says so when it wraps the model",
    "master": "the optimizer says so when it is made",
    "graphs_mamba": "nothing would be captured",
    "graphs_sharded_overlap": "Megatron-FSDP says so when it wraps the model",
    "graphs_static_experts": "the dispatcher says so at the first capture",
    "ncclep": "the dispatcher says so when the model is built",
    "router_fusion": "the router says so at the first step",
    "op_fuser": "Transformer Engine's layers are not built",
    "paged_stash": "the layer says so when it is built",
}
"""Rules whose broken layouts Megatron's parser takes, with the place or reason of the refusal."""


def described(changes: Mapping[str, Any]) -> Spec:
    """Eight Blackwell GPUs, experts, ZeRO-1."""
    made = spec(small_model(moe=MOE), 8, global_batch=16, zero=1, ep=2)
    blackwell = Accelerator(**{**vars(made.cluster.accelerator), "name": "B200", "capability": "10.0"})
    made = override(made, "cluster.accelerator", blackwell)
    for path, value in changes.items():
        made = override(made, path, value)
    return made


@pytest.fixture(scope="module")
def verify() -> Any:
    pytest.importorskip("megatron.core")
    from meshwright.verify import megatron as module

    module.warm()
    return module


def test_megatron_takes_every_technique_as_it_is_emitted(verify: Any) -> None:
    plans = [resolve(described(changes)) for changes in GOOD.values()]
    found = fork_map(verify.check, [(name, plan) for plan in plans for name in verify.CHECKS])
    assert [one for one in found if isinstance(one, Crash) or not one.passed] == []


TP_OVERLAP = {"tp_overlap", "tp_overlap_products", "module_names", "module_precision"}
"""Rules whose layouts are tables, in test_user_buffers."""


def test_every_rule_is_broken_by_a_layout() -> None:
    assert {f"megatron.{part}" for part in (*BROKEN, *TP_OVERLAP)} == {rule.id for rule in (*RULES, *GRAPHS)}


@pytest.mark.parametrize("part", BROKEN)
def test_a_technique_that_cannot_run_is_refused_with_a_repair(part: str) -> None:
    found = {problem.rule: problem for problem in refusals(described(BROKEN[part]), "megatron")}
    assert set(found) == {f"megatron.{part}"}
    assert found[f"megatron.{part}"].repairs


def test_megatron_refuses_what_the_rules_refuse(verify: Any) -> None:
    from test_megatron_agreement import megatrons_word, unchecked

    parts = [part for part in BROKEN if part not in OURS]
    words = fork_map(megatrons_word, [unchecked(described(BROKEN[part])) for part in parts])
    assert [part for part, word in zip(parts, words, strict=True) if word is None] == []


def test_flags_of_a_recipe() -> None:
    line = " ".join(flags(resolve(described({**GOOD["HybridEP"], **GOOD["graphs of parts of layers"], **MXFP8}))))
    assert "--moe-flex-dispatcher-backend hybridep --moe-flex-dispatcher-num-sms 16 --moe-router-fusion" in line
    assert (
        "--cuda-graph-impl transformer_engine --cuda-graph-modules attn moe_router moe_preprocess --te-rng-tr" in line
    )
    assert "--fp8-recipe mxfp8" in line
    assert "--fp8-param-gather" in line


def test_what_a_technique_wants_of_the_environment_has_a_reason() -> None:
    changes = {**GOOD["HybridEP"], **GOOD["activations on the host"], **GOOD["graphs of parts of layers"]}
    rack = {"cluster.nvlink_domain": 72, "cluster.gpus_per_node": 4, P + "ep": 8}
    found = environment(resolve(described({**changes, **rack})))
    assert {name: one.value for name, one in found.items()} == {
        "NVTE_CPU_OFFLOAD_V1": "1",
        "NCCL_GRAPH_REGISTER": "0",
        "NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN": "8",
        "NVLINK_DOMAIN_SIZE": "72",
        "USE_MNNVL": "1",
    }
    assert all(one.why for one in found.values())


def test_a_fused_mixture_in_a_captured_step_gets_the_variables_that_it_reads() -> None:
    """Without them Megatron leaves experts unfused (core/transformer/moe/experts.py:398)."""
    plan = resolve(described(GOOD["graphs of an iteration"]))
    found = {name: one.value for name, one in environment(plan).items()}
    assert found["NVTE_CUTEDSL_FUSED_GROUPED_MLP"] == "1"
    assert found["TORCH_NCCL_AVOID_RECORD_STREAMS"] == "0"
    assert (found["NVLINK_DOMAIN_SIZE"], found["USE_MNNVL"]) == ("8", "0")


def test_two_micro_batches_side_by_side_get_queues_of_their_own() -> None:
    found = environment(resolve(described(GOOD["hidden all-to-all"])))
    assert found["CUDA_DEVICE_MAX_CONNECTIONS"].value == "32"


def test_pages_that_nothing_sizes_are_left_out_with_their_sizes() -> None:
    (problem,) = refusals(described({B + "moe_paged_stash": True, FED + "stash_host": 0.5}), "megatron")
    assert problem.rule == "megatron.paged_stash"
    assert problem.repairs == ({B + "moe_paged_stash": False, FED + "stash_gpu": 1.1, FED + "stash_host": 0.0},)
