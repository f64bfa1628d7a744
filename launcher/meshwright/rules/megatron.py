"""What Megatron-core cannot express, or only under conditions. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.model.megatron_parts import GLOBAL, parts
from meshwright.rules import (
    megatron_extra,
    megatron_fsdp2,
    megatron_hybrid,
    megatron_mixers,
    megatron_quantization,
    megatron_recompute,
    megatron_router,
    megatron_sparse,
    megatron_techniques,
    megatron_training,
)
from meshwright.rules._repairs import any_of, change, on_deepspeed
from meshwright.rules._rule import MEGATRON, Layout, Rule, implies
from meshwright.rules.megatron_flags import contradictions
from meshwright.spec.model import Model, RopeScaling

__all__ = ["RULES", "contradictions"]


def _without(
    part: str, path: str, needed: Callable[[Model], object], message: str | Callable[[Layout], str], source: str
) -> Rule:
    """A part of the model that has no place here."""
    return Rule(
        id=f"megatron.{part}",
        path=path,
        backends=MEGATRON,
        holds=lambda r: not needed(r.model),
        message=message,
        source=source,
        repairs=on_deepspeed,
    )


def _lacks(part: str, path: str, needed: Callable[[Model], object], what: str, hint: str = "") -> Rule:
    """A part of the model that stock Megatron-core 0.19 has no flag for."""
    source = "no such flag in training/arguments.py, no such field in core/transformer/transformer_config.py"
    return _without(part, path, needed, f"Megatron has no {what}{hint}", source)


def _up_to(part: str, length: Callable[[Model], int | None], message: str, source: str) -> Rule:
    """Attention that is plain in sequences of so many tokens, and that Megatron lacks beyond them."""
    return Rule(
        id=f"megatron.{part}",
        path="training.sequence",
        backends=MEGATRON,
        holds=lambda r: (length(r.model) or r.training.sequence) >= r.training.sequence,
        message=message,
        source=source,
        repairs=any_of(lambda r: [{"training.sequence": length(r.model)}], on_deepspeed),
    )


_PARTS = (
    Rule(
        id="megatron.measured",
        path="model.path",
        backends=MEGATRON,
        holds=lambda r: r.model.measured is None,
        message=lambda r: f"Megatron has no such model: {r.model.measured.lacks if r.model.measured else ''}",
        source="the model was looked at, built by transformers; nothing says how Megatron would build it",
        repairs=on_deepspeed,
    ),
    _lacks("deepnorm", "model.norm_placement", lambda m: m.norm_placement == "deepnorm", "DeepNorm"),
    _lacks(
        "mla_kind", "model.mla", lambda m: m.mla and (m.attention_sinks or m.attention_gate), "sinks or gate in MLA"
    ),
    _lacks(
        "sinks",
        "model.attention_sinks",
        lambda m: m.attention_sinks and (m.attention_softcap or m.positions == "alibi"),
        "sinks with a soft cap or ALiBi",
    ),
    _lacks("mla_window", "model.sliding_window", lambda m: m.mla and m.sliding_window, "sliding window in MLA"),
    _lacks("mla_scale", "model.attention_scale", lambda m: m.mla and m.attention_scale, "other scale of MLA's scores"),
    _lacks("mla_bias", "model.qkv_bias", lambda m: m.mla and m.qkv_bias, "query, key and value biases in MLA"),
    _lacks("rotated_norm", "model.qk_norm", lambda m: m.qk_norm == "rotated", "norms behind the rotary positions"),
    _lacks("rotary_base", "model.rope.base", lambda m: not m.rope.base.is_integer(), "fractional rotary base"),
    _lacks(
        "rope_scaling",
        "model.rope.scaling",
        lambda m: m.rope.scaling and not _scales(m),
        "such rotary scaling",
        ": of latent attention it is yarn over 4096 positions with betas 32 and 1, and linear is a whole number",
    ),
)


_OUR_LAYERS = (
    Rule(
        id="megatron.parts",
        path="backend.megatron.spec",
        backends=MEGATRON,
        holds=lambda r: not parts(r.model) or r.backend.megatron.spec,
        message=lambda r: f"stock Megatron has no {' or '.join(parts(r.model))}; spec=true uses our layers",
        source="megatron_parts.py: our layer specifications, for --spec",
        repairs=any_of(change(backend__megatron__spec=True), on_deepspeed),
    ),
    _without(
        "parts_mla",
        "model.mla",
        lambda m: m.mla and parts(m).keys() - set(GLOBAL),
        lambda r: f"our layers with {', '.join(sorted(parts(r.model).keys() - set(GLOBAL)))} have no latent attention",
        "train/layers",
    ),
    _without(
        "experts_activation",
        "model.activation",
        lambda m: m.moe and m.activation == "xielu",
        "xielu learns two scalars a layer, and our layer keeps none for experts",
        "train/blocks.py",
    ),
    _without(
        "full_norm",
        "model.norm",
        lambda m: m.qk_norm == "full" and (m.norm != "rmsnorm" or m.norm_zero_centered),
        "our norm of all heads at once is an RMSNorm whose weight starts at one",
        "train/norms.py",
    ),
    Rule(
        id="megatron.one_norm",
        path="parallelism.recompute_modules",
        backends=MEGATRON,
        holds=lambda r: (
            not (r.model.parallel_residual and r.model.shared_parallel_norm)
            or "layernorm" not in (r.spec.parallelism.recompute_modules or ())
        ),
        message="one norm feeds attention and MLP, and a recomputed norm keeps no output for the second",
        source="train/blocks.py",
        repairs=change(parallelism__recompute_modules=None),
    ),
    _up_to(
        "chunk",
        lambda m: m.attention_chunk,
        "Megatron has no chunks of {model.attention_chunk} in a sequence of {training.sequence} tokens",
        "no such flag in training/arguments.py; in one chunk it is plain attention",
    ),
    _up_to(
        "query_growth",
        lambda m: m.query_growth_from,
        "Megatron has no queries that grow from token {model.query_growth_from} on, of {training.sequence}",
        "no such flag in training/arguments.py; transformers models/llama4/modeling_llama4.py",
    ),
    Rule(
        id="megatron.parts_cp",
        path="parallelism.cp",
        backends=MEGATRON,
        holds=lambda r: implies(r.model.positions == "alibi" or r.model.attention_softcap is not None, r.cp == 1),
        message="attention with ALiBi or a soft cap sees whole sequences, cp = {cp} cuts them",
        source="train/attention.py",
        repairs=change(parallelism__cp=1),
    ),
    Rule(
        id="megatron.softcap_dropout",
        path="model.attention_dropout",
        backends=MEGATRON,
        holds=lambda r: implies(r.model.attention_softcap is not None, r.model.attention_dropout == 0),
        message="attention with a soft cap has no dropout, attention_dropout = {model.attention_dropout}",
        source="train/attention.py: flex attention has none",
        repairs=change(model__attention_dropout=0.0),
    ),
)


def _parsed_yarn(scaling: RopeScaling) -> bool:
    """What the parser has no flags for is as in MLATransformerConfig (core/transformer/transformer_config.py)."""
    return (scaling.original_positions, scaling.beta_fast, scaling.beta_slow) == (4096, 32.0, 1.0)


def _scales(model: Model) -> bool:
    scaling = model.rope.scaling
    if scaling is None or scaling.kind == "yarn":
        return scaling is None or model.mla is None or _parsed_yarn(scaling)
    return model.mla is None and (scaling.kind == "llama3" or scaling.factor.is_integer())


RULES: tuple[Rule, ...] = (
    *_PARTS,
    *_OUR_LAYERS,
    *megatron_router.RULES,
    *megatron_hybrid.RULES,
    *megatron_mixers.RULES,
    *megatron_sparse.RULES,
    *megatron_fsdp2.RULES,
    *megatron_training.RULES,
    *megatron_extra.RULES,
    *megatron_quantization.ON_GPUS,
    *megatron_recompute.RULES,
    *megatron_techniques.RULES,
)
