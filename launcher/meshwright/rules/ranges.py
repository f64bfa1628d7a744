"""What a number may be by itself, as one table of ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from meshwright.errors import Problem
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass

__all__ = ["RANGES", "Range", "out_of_range"]


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers from ``least`` (or ``above``) to ``most`` (or ``below``); ``or_zero``: and 0, which turns it off."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    or_zero: bool = False

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies within."""
        within = self.least <= value <= self.most and self.above < value < self.below
        return within or (self.or_zero and value == 0)

    def __str__(self) -> str:
        """In words."""
        bounds = {"at least": self.least, "more than": self.above, "at most": self.most, "less than": self.below}
        said = " and ".join(f"{word} {bound:,}" for word, bound in bounds.items() if math.isfinite(bound))
        return f"0, or {said}" if self.or_zero else said


_COUNT, _NONE_OR_MORE = Range(least=1), Range(least=0)
_AMOUNT, _FRACTION = Range(above=0), Range(above=0, most=1)
_TIMES_OR_OFF = Range(least=1, or_zero=True)  # fewer times the usual is every step
_PART, _PART_BELOW_ONE = Range(least=0, most=1), Range(least=0, below=1)
_LAYERS = Range(least=0, most=100_000)  # a stage is written out layer by layer

_TABLE: tuple[tuple[Range, str, str], ...] = (
    (_LAYERS, "model", "layers mtp full_attention_every"),
    (_AMOUNT, "model", "activation_clamp residual_scale residual_weight logit_scale"),
    (_COUNT, "model", "sliding_window attention_chunk query_growth_from"),
    (
        _AMOUNT,
        "model",
        "norm_eps embedding_scale attention_scale attention_softcap final_softcap qkv_clip",
    ),
    (_NONE_OR_MORE, "model", "init_std mtp_loss_weight position_offset query_growth activation_offset"),
    (_PART_BELOW_ONE, "model", "attention_dropout hidden_dropout"),
    (_AMOUNT, "model.rope", "base local_base"),
    (_FRACTION, "model.rope", "fraction"),
    (_NONE_OR_MORE, "model.rope", "skip_every"),
    (_AMOUNT, "model.rope.scaling", "factor low_freq_factor high_freq_factor beta_fast beta_slow"),
    (_COUNT, "model.rope.scaling", "original_positions"),
    (_NONE_OR_MORE, "model.rope.scaling", "mscale mscale_all_dim"),
    (_COUNT, "model.mla", "kv_lora_rank qk_nope_dim qk_rope_dim v_dim q_lora_rank"),
    (_COUNT, "model.indexer", "heads head_dim topk"),
    (_NONE_OR_MORE, "model.indexer", "loss"),
    (_COUNT, "model.delta_net", "key_heads value_heads key_dim value_dim kernel"),
    (_COUNT, "model.mamba", "heads head_dim groups state kernel"),
    (_COUNT, "model.short_convolution", "kernel"),
    (
        _AMOUNT,
        "model.multipliers",
        "attention_in attention_out mamba_in mamba_out mamba_gate mamba_x mamba_write mamba_read mamba_step mlp_gate "
        "mlp_down",
    ),
    (_COUNT, "model.moe", "ffn every latent"),
    (_NONE_OR_MORE, "model.moe", "first_dense shared_ffn bias_update_rate aux_loss z_loss"),
    (_AMOUNT, "model.moe", "scaling capacity_factor"),
    (_PART_BELOW_ONE, "model.moe", "quantile_ema"),
    (_COUNT, "cluster", "nodes nvlink_domain pod cpus_per_node"),
    (_AMOUNT, "cluster", "oversubscription"),
    (_NONE_OR_MORE, "cluster", "host_memory_gib price_per_gpu_hour"),
    (_AMOUNT, "cluster", "node_mtbf_hours storage_gb_s"),
    (_AMOUNT, "cluster", "host_memory_gb_s host_link_gb_s nvme_gib nvme_read_gb_s nvme_write_gb_s"),
    (_AMOUNT, "cluster.accelerator", "memory_gib memory_bandwidth_gb_s bf16_tflops fp8_tflops fp4_tflops fp32_tflops"),
    (_AMOUNT, "cluster.accelerator", "full_fp32_tflops"),
    *((_AMOUNT, f"cluster.{links}", "bandwidth_gb_s") for links in ("intra", "inter")),
    *((_NONE_OR_MORE, f"cluster.{links}", "latency_us") for links in ("intra", "inter")),
    (_FRACTION, "cluster.efficiency", "matmul attention memory intra_link inter_link"),
    (_NONE_OR_MORE, "cluster.efficiency", "launch_us kernel_us step_ms"),
    (_PART, "cluster.efficiency", "overlap"),
    (Range(least=0, most=10), "cluster.efficiency", "spread"),
    (_COUNT, "training", "microbatches steps tokens"),
    (_NONE_OR_MORE, "training", "seed"),
    (_NONE_OR_MORE, "training.optimizer", "lr eps weight_decay clip"),
    (_PART_BELOW_ONE, "training.optimizer", "beta1 beta2 momentum"),
    (_AMOUNT, "training.optimizer", "qk_clip"),
    (_NONE_OR_MORE, "training.schedule", "warmup_steps wsd_decay_steps min_lr"),
    (_COUNT, "training.schedule", "decay_steps"),
    (_AMOUNT, "training.data", "epochs"),
    (_NONE_OR_MORE, "training.data", "workers"),
    (_COUNT, "training.evaluation", "interval steps"),
    (_COUNT, "training.logging", "interval save_interval keep_last keep_every profile"),
    (_TIMES_OR_OFF, "launch.watchdog", "factor slow"),
    (_AMOUNT, "launch.watchdog", "seconds"),
    (_NONE_OR_MORE, "launch.resiliency", "restarts"),
    (_AMOUNT, "launch.resiliency", "setup_seconds step_seconds checkpointing_seconds other_seconds"),
    (_COUNT, "backend.megatron", "vocab_divisor moe_flex_sms bucket"),
    (_COUNT, "backend.megatron.megatron_fsdp", "unit_size"),
    (_COUNT, "backend.megatron.quantization", "amax_history"),
    (_NONE_OR_MORE, "backend.megatron.cuda_graphs", "warmup"),
    (_NONE_OR_MORE, "backend.megatron.garbage", "interval"),
    (_AMOUNT, "backend.megatron", "moe_rank_capacity"),
    (_COUNT, "backend.megatron.experts", "interleave preprocessing_sms"),
    (_NONE_OR_MORE, "backend.megatron.experts", "stash_gpu stash_host"),
    (_NONE_OR_MORE, "backend.megatron.quantization", "first_layers_bf16 last_layers_bf16"),
    (_COUNT, "backend.megatron.muon", "steps"),
    (_COUNT, "backend.megatron.groups", "timeout_minutes"),
    (_AMOUNT, "backend.megatron.muon", "extra_scale"),
    (_NONE_OR_MORE, "backend.megatron.activation_offload", "inflight layers min_elements"),
    (_PART, "backend.megatron.activation_offload", "fraction"),
    (_PART, "backend.megatron.optimizer_offload", "fraction"),
    (_NONE_OR_MORE, "backend.deepspeed", "reduce_bucket allgather_bucket prefetch_bucket persistence_threshold"),
    (_NONE_OR_MORE, "backend.deepspeed", "max_live_parameters max_reuse_distance"),
    (_COUNT, "backend.deepspeed", "sub_group_size moe_dispatcher_sms"),
    (_PART, "backend.deepspeed", "super_offload_cores"),
    (_COUNT, "backend.deepspeed.tiling", "loss mlp"),
    (_PART_BELOW_ONE, "backend.deepspeed.zenflow", "topk"),
    (_COUNT, "backend.deepspeed.zenflow", "update_interval select_interval"),
    (_NONE_OR_MORE, "backend.deepspeed.zenflow", "warmup"),
)

RANGES = {f"{section}.{name}": within for within, section, names in _TABLE for name in names.split()}
"""Every number of a Spec that no rule judges, by its path. ``None`` is in every range."""

_PARTS = tuple((path, tuple(path.split(".")), within) for path, within in RANGES.items())


def out_of_range(spec: Spec, backend: str) -> Iterator[Problem]:
    """Numbers that lie outside of theirs, as far as ``backend`` reads them."""
    for path, names, within in _PARTS:
        value: Any = spec
        for name in names:
            value = getattr(value, name) if value is not None else None
        if value is not None and not within.holds(value) and ("deepspeed" in backend or names[1] != "deepspeed"):
            shown = f"{value:g}" if isinstance(value, float) else value
            yield Problem(path, f"{shown} is out of range; give {within}", f"value.{path}")
