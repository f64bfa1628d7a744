"""What a value may be by itself, as one table of ranges, and what a few values say together.

Judged before every rule, on the Spec alone: a search varies layouts, so none of this enters its masks. Degrees and
sizes that every rule divides by are in ``grid.POSITIVE``; what depends on the layout is a rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshwright.errors import Problem
from meshwright.model.layers import MIXERS, parts
from meshwright.model.pattern import read_pattern
from meshwright.rules.launch import launch_problems
from meshwright.rules.requirements import lacking
from meshwright.spec import Data, Model, Parallelism, Spec, Training

__all__ = ["RANGES", "RECOMPUTED", "Range", "value_problems"]


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
    (_AMOUNT, "model", "activation_clamp residual_scale logit_scale"),
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
    (_COUNT, "model.moe", "ffn every latent"),
    (_NONE_OR_MORE, "model.moe", "first_dense shared_ffn bias_update_rate aux_loss z_loss"),
    (_AMOUNT, "model.moe", "scaling capacity_factor"),
    (_COUNT, "cluster", "nodes nvlink_domain pod cpus_per_node"),
    (_AMOUNT, "cluster", "oversubscription"),
    (_NONE_OR_MORE, "cluster", "host_memory_gib price_per_gpu_hour"),
    (_AMOUNT, "cluster", "node_mtbf_hours storage_gb_s"),
    (_AMOUNT, "cluster", "host_memory_gb_s host_link_gb_s nvme_gib nvme_read_gb_s nvme_write_gb_s"),
    (_AMOUNT, "cluster.accelerator", "memory_gib memory_bandwidth_gb_s bf16_tflops fp8_tflops fp4_tflops fp32_tflops"),
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
    (_NONE_OR_MORE, "training.schedule", "warmup_steps wsd_decay_steps min_lr"),
    (_COUNT, "training.schedule", "decay_steps"),
    (_AMOUNT, "training.data", "epochs"),
    (_NONE_OR_MORE, "training.data", "workers"),
    (_COUNT, "training.evaluation", "interval steps"),
    (_COUNT, "training.logging", "interval save_interval keep_last keep_every profile"),
    (_TIMES_OR_OFF, "launch.watchdog", "factor slow"),
    (_AMOUNT, "launch.watchdog", "seconds"),
    (_COUNT, "backend.megatron", "vocab_divisor moe_flex_sms"),
    (_AMOUNT, "backend.megatron", "moe_rank_capacity"),
    (_COUNT, "backend.megatron.experts", "interleave preprocessing_sms"),
    (_NONE_OR_MORE, "backend.megatron.experts", "stash_gpu stash_host"),
    (_NONE_OR_MORE, "backend.megatron.quantization", "first_layers_bf16 last_layers_bf16"),
    (_NONE_OR_MORE, "backend.megatron.activation_offload", "inflight layers"),
    (_PART, "backend.megatron.activation_offload", "fraction"),
    (_PART, "backend.megatron.optimizer_offload", "fraction"),
    (_NONE_OR_MORE, "backend.deepspeed", "reduce_bucket allgather_bucket prefetch_bucket persistence_threshold"),
    (_NONE_OR_MORE, "backend.deepspeed", "max_live_parameters max_reuse_distance"),
    (_COUNT, "backend.deepspeed", "sub_group_size"),
)

RANGES = {f"{section}.{name}": within for within, section, names in _TABLE for name in names.split()}
"""Every number of a Spec that no rule judges, by its path. ``None`` is in every range."""

_PARTS = tuple((path, tuple(path.split(".")), within) for path, within in RANGES.items())

RECOMPUTED = ("core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts")
"""What selective recompute can name: core/transformer/transformer_config.py:1768, but for parts that no Model has."""


def value_problems(spec: Spec, backend: str) -> list[Problem]:
    """What is wrong with single values, as far as ``backend`` reads them."""
    return [
        *_names(spec),
        *_out_of_range(spec, backend),
        *_pattern(spec.model),
        *_unused(spec.model),
        *_indexed(spec.model),
        *_rotated(spec.model),
        *_growth(spec.model),
        *_modules(spec.parallelism),
        *_ramp(spec.training),
        *_rates(spec.training),
        *_wsd(spec.training),
        *_data(spec.training.data),
        *_evaluation(spec.training),
        *launch_problems(spec),
        *lacking(spec, backend),
    ]


def _names(spec: Spec) -> Iterator[Problem]:
    """A run and its stages name folders and jobs."""
    for path, name in (("name", spec.name), ("variant", spec.variant or "x"), ("stage", spec.stage or "x")):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
            allowed = "start with a letter or digit, use only these, '.', '_' and '-', and at most 200 of them"
            yield Problem(path, f"{name!r} cannot name a folder; {allowed}", "value.name")


def _out_of_range(spec: Spec, backend: str) -> Iterator[Problem]:
    for path, names, within in _PARTS:
        value: Any = spec
        for name in names:
            value = getattr(value, name) if value is not None else None
        if value is not None and not within.holds(value) and ("deepspeed" in backend or names[1] != "deepspeed"):
            shown = f"{value:g}" if isinstance(value, float) else value
            yield Problem(path, f"{shown} is out of range; give {within}", f"value.{path}")


def _pattern(model: Model) -> Iterator[Problem]:
    """Readable, of as many layers as the model has, with what its parts need, and the only word on its subject."""
    if model.pattern is None:
        return
    try:
        found = read_pattern(model.pattern)
    except ValueError as error:
        yield Problem("model.pattern", str(error), "value.pattern")
        return
    if len(found) != model.layers:
        message = f"writes {len(found)} layers, model.layers = {model.layers}; make them equal"
        yield Problem("model.pattern", message, "value.pattern")
    for part in dict.fromkeys(part for kind in found for part in parts(kind)):
        for option in part.options:
            if getattr(model, option) is None:
                yield Problem(f"model.{option}", f"not set, and model.pattern has {part.symbol}", "value.pattern")
    for path, value in _short_forms(model):
        if value:
            yield Problem(path, f"{value} says again what model.pattern says; leave it out", "value.pattern")


def _unused(model: Model) -> Iterator[Problem]:
    """Only a pattern can say which layers are of these kinds; without one an indexer is in all of them."""
    everywhere = MIXERS["sparse_attention"].symbol if model.pattern is None else model.pattern
    for kind, mixer in (("delta_net", "delta_net"), ("mamba", "mamba"), ("indexer", "sparse_attention")):
        symbol = MIXERS[mixer].symbol
        if getattr(model, kind) is not None and symbol not in everywhere:
            message = f"set, and model.pattern has no {symbol}; write it there, or leave this out"
            yield Problem(f"model.{kind}", message, "value.pattern")


def _indexed(model: Model) -> Iterator[Problem]:
    """An indexer chooses for latent attention, and turns as many channels of its heads as that one does."""
    if model.indexer is None:
        return
    if model.mla is None:
        yield Problem(
            "model.mla",
            "not set, and model.indexer chooses tokens for latent attention; set model.indexer=null",
            "value.indexer",
        )
    elif model.indexer.head_dim < model.mla.qk_rope_dim:
        least = model.mla.qk_rope_dim
        message = f"{model.indexer.head_dim} channels hold no positions of {least}; set model.indexer.head_dim={least}"
        yield Problem("model.indexer.head_dim", message, "value.indexer")


def _short_forms(model: Model) -> Iterator[tuple[str, int]]:
    yield "model.full_attention_every", model.full_attention_every
    if model.moe:
        yield "model.moe.first_dense", model.moe.first_dense
        yield "model.moe.every", model.moe.every - 1


def _rotated(model: Model) -> Iterator[Problem]:
    """Rotary positions turn pairs of a head's channels; both backends turn 22 where a fraction gives 21."""
    if model.positions != "rope":
        return
    path, size = ("mla.qk_rope_dim", model.mla.qk_rope_dim) if model.mla else ("head_dim", model.head_dim)
    turned = size if model.mla else int(size * model.rope.fraction)
    if size > 0 < model.rope.fraction and (turned == 0 or turned + turned % 2 > size):
        message = f"{turned} of {size} channels of a head are rotated, and rope turns pairs; give an even number"
        yield Problem(f"model.{path}", message, "value.rope")


def _growth(model: Model) -> Iterator[Problem]:
    """Growing queries are two numbers."""
    if (model.query_growth is None) != (model.query_growth_from is None):
        path = "query_growth" if model.query_growth is None else "query_growth_from"
        yield Problem(f"model.{path}", "not set, and the other number of growing queries is", "value.growth")


def _modules(parallelism: Parallelism) -> Iterator[Problem]:
    for i, module in enumerate(parallelism.recompute_modules or ()):
        if module not in RECOMPUTED:
            message = f"{module!r} is no part of a layer; there are {', '.join(RECOMPUTED)}"
            yield Problem(f"parallelism.recompute_modules[{i}]", message, "value.recompute_modules")


def _ramp(training: Training) -> Iterator[Problem]:
    for i, step in enumerate(training.ramp):
        for name, value, least in (("from_tokens", step.from_tokens, 0), ("global_batch", step.global_batch, 1)):
            if value < least:
                message = f"{value} is out of range; give at least {least}"
                yield Problem(f"training.ramp[{i}].{name}", message, "value.ramp")


def _rates(training: Training) -> Iterator[Problem]:
    peak, lowest = training.optimizer.lr, training.schedule.min_lr
    if lowest > peak:
        message = f"{lowest} is more than the peak, training.optimizer.lr = {peak}; give at most that"
        yield Problem("training.schedule.min_lr", message, "value.min_lr")


def _wsd(training: Training) -> Iterator[Problem]:
    schedule = training.schedule
    last, whole = schedule.wsd_decay_steps, schedule.decay_steps or training.steps or _steps(training)
    if schedule.style == "wsd" and last is not None and whole is not None and last > whole:
        message = f"a last phase of {last:,} steps does not fit into {whole:,} steps; give at most these"
        yield Problem("training.schedule.wsd_decay_steps", message, "value.wsd")


def _steps(training: Training) -> int | None:
    """Of the tokens, as far as the Spec alone says so: with a ramp or a derived batch there are more."""
    if training.tokens is None or not training.global_batch or training.ramp or training.sequence < 1:
        return None
    return -(-training.tokens // (training.global_batch * training.sequence))


def _data(data: Data) -> Iterator[Problem]:
    if data.tokenizer.kind in ("huggingface", "sentencepiece", "tiktoken") and data.tokenizer.path is None:
        message = f"not set; a {data.tokenizer.kind} tokenizer is read from a local folder or file"
        yield Problem("training.data.tokenizer.path", message, "data.tokenizer")
    if data.weights and len(data.weights) != len(data.paths):
        message = f"{len(data.weights)} weights for {len(data.paths)} paths; give one each, or none"
        yield Problem("training.data.weights", message, "data.weights")
    if data.weights and min(data.weights) <= 0:
        yield Problem("training.data.weights", f"{min(data.weights):g} is not above 0", "data.weights")
    if not _three_shares(data.split):
        message = f"{data.split!r} is not three shares for training, validation and test; write for example '99,1,0'"
        yield Problem("training.data.split", message, "data.split")


def _evaluation(training: Training) -> Iterator[Problem]:
    split = training.data.split
    if training.evaluation.wanted and training.data.paths and _three_shares(split) and not _shares(split)[1]:
        message = (
            f"{split!r} leaves nothing to validate on, which training.evaluation asks for; give the second a share"
        )
        yield Problem("training.data.split", message, "data.validation", ({"training.data.split": "99,1,0"},))


def _three_shares(split: str) -> bool:
    shares = _shares(split)
    return len(shares) == 3 and min(shares) >= 0 and math.isfinite(sum(shares)) and shares[0] > 0


def _shares(split: str) -> list[float]:
    try:
        return [float(share) for share in split.split(",")]
    except ValueError:
        return []
