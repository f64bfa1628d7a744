"""What a field of a Spec decides: what is learned, or only how the same thing is learned; one table.

Rounding is no difference: a sum in another order, or by another kernel, counts as the same training. What changes the
precision that numbers are kept or sent in counts as other training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Literal

__all__ = ["EFFECTS", "Effect", "effect_of", "effect_of_flags", "unequal"]

Effect = Literal["learned", "runs", "described"]
"""learned: the model, the data, or a number that enters an update. runs: where, how fast and with what in memory.
described: a name, or a constant that predictions alone read."""

_TABLE: tuple[tuple[Effect, str, str], ...] = (
    ("described", "", "name stage variant"),
    ("described", "software", "name source"),
    ("runs", "software", "components"),
    ("described", "model", "measured"),
    ("described", "model", "name transformers"),
    (
        "learned",
        "model",
        "layers hidden ffn heads kv_heads head_dim vocab max_positions activation norm positions norm_eps "
        "norm_zero_centered norm_placement tied_embeddings linear_bias qkv_bias qk_norm parallel_residual "
        "shared_parallel_norm embedding_norm embedding_scale attention_scale attention_softcap final_softcap "
        "sliding_window full_attention_every qkv_clip attention_dropout hidden_dropout init_std rope mla moe mtp "
        "mtp_loss_weight mtp_repeated mtp_detached pattern position_offset attention_sinks attention_gate "
        "attention_chunk query_growth query_growth_from attention_bias activation_clamp activation_offset "
        "residual_scale residual_weight "
        "logit_scale output_bias delta_net mamba short_convolution multipliers indexer cross_attention "
        "norm_before_positions",
    ),
    ("described", "cluster", "name price_per_gpu_hour efficiency node_mtbf_hours"),
    (
        "runs",
        "cluster",
        "gpus_per_node accelerator intra inter nodes gpus nvlink_domain pod oversubscription cpus_per_node "
        "host_memory_gib host_memory_gb_s host_link_gb_s nvme_gib nvme_read_gb_s nvme_write_gb_s storage_gb_s "
        "environment",
    ),
    (
        "runs",
        "parallelism",
        "tp sp pp vpp cp ep etp gtp egtp dp zero recompute recompute_method recompute_layers recompute_modules "
        "pipeline_split order cp_comm cp_levels optimizer_instances microbatch_group overlap_grad_reduce "
        "overlap_param_gather overlap_p2p overlap_tp overlap_ep",
    ),
    (
        "learned",
        "training",
        "sequence global_batch ramp steps tokens precision grad_reduce optimizer schedule seed",
    ),
    ("runs", "training", "micro_batch microbatches logging evaluation"),
    ("learned", "training.data", "paths weights split tokenizer"),
    ("runs", "training.data", "cache workers epochs"),  # epochs is a check before a launch
    ("runs", "backend", "name"),
    (
        "runs",
        "backend.megatron",
        "fsdp transformer attention moe_dispatcher moe_grouped_gemm moe_permute_fusion vocab_divisor checkpoint_format "
        "gradient_accumulation_fusion cross_entropy_fusion precision_aware_optimizer spec model moe_flex_backend "
        "moe_flex_sms moe_router_fusion moe_shared_expert_overlap moe_paged_stash op_fuser delay_wgrad "
        "gather_with_step cuda_graphs activation_offload optimizer_offload experimental bucket garbage "
        "megatron_fsdp dsa_kernels groups tp_overlap checkpoint_parallel_load checkpoint_reshardable empty_cache",
    ),
    # tokens beyond a capacity are dropped; flags may mean anything: ``effect_of_flags``
    (
        "learned",
        "backend.megatron",
        "optimizer_moments optimizer_master optimizer_gradients quantization moe_rank_capacity muon extra "
        "per_token_loss decay_qk_norms",
    ),  # see ``effect_of_flags``
    ("learned", "backend.megatron.experts", "balanced padded padded_to_capacity interleave"),
    (
        "runs",
        "backend.megatron.experts",
        "priority_stream permute_in_dispatch preprocessing_sms stash_gpu stash_host "
        "wgrad_beside_dispatch early_release",
    ),
    (
        "runs",
        "backend.deepspeed",
        "offload_optimizer offload_param hpz reduce_bucket allgather_bucket prefetch_bucket persistence_threshold "
        "max_live_parameters max_reuse_distance sub_group_size torch_adam attention super_offload super_offload_cores "
        "tiling deep_compile moe_dispatcher moe_dispatcher_sms autotp checkpoint",
    ),
    ("learned", "backend.deepspeed", "quantized_weights quantized_gradients bf16_states autocast zenflow extra"),
    ("runs", "launch", "kind entry python port dry_run force test_only environment slurm watchdog resiliency"),
    ("runs", "after", "checkpoints universal"),
    ("learned", "after", "step sample"),
)

EFFECTS: dict[str, Effect] = {
    f"{section}.{name}".lstrip("."): effect for effect, section, names in _TABLE for name in names.split()
}
"""By dotted path; a path of a part (``model.rope``) stands for everything in it."""


def effect_of(path: str) -> Effect:
    """The effect of the field at ``path``; of a part that holds several, the strongest of theirs."""
    above = path
    while above and above not in EFFECTS:
        above = above.rpartition(".")[0]
    if above:
        return EFFECTS[above]
    within = {effect for known, effect in EFFECTS.items() if known.startswith(f"{path}.")}
    assert within, f"{path} is no path of a Spec"
    return next(effect for effect in _STRONGEST_FIRST if effect in within)


_STRONGEST_FIRST: tuple[Effect, ...] = ("learned", "runs", "described")


_KEEPING = (
    "--ckpt-",
    "--dist-ckpt-",
    "--log-",
    "--tensorboard-",
    "--timing-",
    "--wandb-",
    "--profile",
    "--distributed-",
)
"""Beginnings of Megatron's flags about checkpoints, logs and process groups."""


def effect_of_flags(words: Iterable[str]) -> Effect:
    """Of Megatron's flags that are passed through: what is not known to be housekeeping may change what is learned."""
    flags = [word for word in words if word.startswith("--")]
    return "runs" if flags and all(flag.startswith(_KEEPING) for flag in flags) else "learned"


def unequal(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, value, value) of two Specs' fields that differ, down to what is no dataclass on both sides."""
    if is_dataclass(a) and type(a) is type(b):
        for field in fields(a):
            inner = f"{path}.{field.name}".lstrip(".")
            yield from unequal(getattr(a, field.name), getattr(b, field.name), inner)
    elif a != b:
        yield path, a, b
