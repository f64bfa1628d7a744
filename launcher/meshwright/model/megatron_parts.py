"""Parts of a model that stock Megatron-core lacks and our layer specification (``--spec``) brings along.

Megatron gives a specification no options, so its name carries them: ``final_softcap=30.0,norms=sandwich``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, fields

from meshwright.model.kinds import layer_kinds, mixers
from meshwright.model.layers import MIXERS
from meshwright.spec.model import Model, Moe, Multipliers

__all__ = [
    "GLOBAL",
    "HYBRID",
    "HYBRID_MODULE",
    "MODULE",
    "NAMES",
    "OUR_MIXERS",
    "PartValue",
    "Parts",
    "factors",
    "parts",
    "read_name",
    "spec_name",
]

MODULE, HYBRID_MODULE = "meshwright.train.layers", "meshwright.train.hybrid_layers"
"""Where Megatron finds our layers of GPTModel and of HybridModel."""

PartValue = bool | float | str
Parts = Mapping[str, PartValue]

NAMES = (
    "activation",
    "alibi",
    "attention_bias",
    "attention_softcap",
    "cross_attention",
    "embedding_norm",
    "embedding_scale",
    "experts_norm",
    "final_softcap",
    "local_base",
    "lightning",
    "llama3_stretch",
    "mixers",
    "multipliers",
    "norm",
    "norms",
    "output_bias",
    "parallel_residual",
    "plain_mamba",
    "plain_queries",
    "positions",
    "qk_norm",
    "qkv_clip",
    "residual_scale",
    "residual_weight",
    "router_bias",
    "short_convolution",
)

GLOBAL = (
    *("activation", "embedding_norm", "embedding_scale", "experts_norm", "final_softcap", "norms", "output_bias"),
    *("plain_queries", "positions", "residual_scale", "residual_weight", "router_bias"),
)
"""Parts that do not reach into attention, so that latent attention has them, too."""

HYBRID = ("residual_scale",)
"""Parts that our layers of HybridModel have (``train/hybrid_layers``)."""


def parts(model: Model) -> Parts:
    """The parts that ``model`` needs, by their names in order; empty for what stock Megatron-core has itself."""
    needed: dict[str, PartValue | None] = {
        "activation": model.activation if _own_activation(model) else None,
        "alibi": model.positions == "alibi",
        "attention_bias": model.attention_bias if model.linear_bias and model.attention_bias != "all" else None,
        "attention_softcap": model.attention_softcap,
        "cross_attention": model.cross_attention,
        "embedding_norm": _embedding_norm(model),
        "embedding_scale": model.embedding_scale if model.looks_up_positions else None,
        "experts_norm": model.moe is not None and model.moe.output_norm,
        "final_softcap": model.final_softcap,
        "local_base": model.rope.local_base,
        "lightning": _lightning(model),
        "llama3_stretch": _stretch(model),
        "mixers": _mixers(model),
        "multipliers": ":".join(map(str, astuple(model.multipliers))) if model.multipliers else None,
        "norm": None if model.norm in ("rmsnorm", "layernorm") else model.norm,
        "norms": None if model.norm_placement == "pre" else model.norm_placement,
        "output_bias": model.output_bias,
        "parallel_residual": _parallel(model),
        "plain_mamba": model.mamba is not None and not model.mamba.norm,
        # Megatron 0.19.2 norms the hidden states once more before them (core/transformer/mla_qk_norm_config.py:143)
        "plain_queries": model.mla is not None and model.mla.q_lora_rank is None,
        "positions": _sines(model),
        "qk_norm": _qk_norm(model),
        "qkv_clip": model.qkv_clip,
        "residual_scale": model.residual_scale,
        "residual_weight": model.residual_weight,
        "router_bias": _router_bias(model.moe) if model.moe is not None and model.moe.router_bias else None,
        "short_convolution": float(model.short_convolution.kernel) if model.short_convolution else None,
    }
    assert needed.keys() == set(NAMES)
    return {name: value for name, value in needed.items() if value is not None and value is not False}


OUR_MIXERS = ("short_convolution", "parallel_mixer")
"""Mixers that no class of Megatron's builds."""


def _mixers(model: Model) -> PartValue | None:
    """The symbol of each layer's mixer, where one of them is ours."""
    if mixers(model).isdisjoint(OUR_MIXERS):
        return None
    return "".join(MIXERS[kind.mixer].symbol for kind in layer_kinds(model) if kind.mixer in MIXERS)


def _own_activation(model: Model) -> bool:
    """The fused bias-GELU kernel is the tanh approximation, and wants a bias."""
    plain = model.activation == "gelu_tanh" and not model.linear_bias
    return plain or model.activation in ("relu", "geglu", "geglu_tanh", "xielu")


def _qk_norm(model: Model) -> PartValue | None:
    """Layers without positions have no L2 norm, either (Llama 4)."""
    if model.qk_norm == "l2" and model.rope.skip_every:
        return "l2"
    return "full" if model.qk_norm == "full" else None


def _lightning(model: Model) -> PartValue | None:
    """Which layers have it, a letter for each: L or *."""
    if "lightning" not in mixers(model):
        return None
    return "".join("L" if kind.mixer == "lightning" else "*" for kind in layer_kinds(model))


def _stretch(model: Model) -> PartValue | None:
    """Megatron's flag stretches as Llama 3.1 does (rotary_pos_embedding.py: _apply_scaling)."""
    scaling = model.rope.scaling
    if scaling is None or scaling.kind != "llama3" or model.positions != "rope":
        return None
    factors = (scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_positions)
    return None if factors == (1.0, 4.0, 8192) else ":".join(map(str, factors))


def _embedding_norm(model: Model) -> PartValue:
    before = model.looks_up_positions and model.norm_before_positions
    return "words" if model.embedding_norm and before else model.embedding_norm


def _router_bias(moe: Moe) -> PartValue | None:
    """What Megatron's own differs in: it is added to sigmoid scores, which are then normalised, and a buffer."""
    words = {
        "softmax": moe.score == "softmax",
        "logits": moe.bias_on == "logits",
        "raw": not moe.normalize_topk and moe.topk > 1,
        "parameter": moe.bias_parameter,
    }
    return "+".join(word for word, holds in words.items() if holds) or None


def _sines(model: Model) -> PartValue | None:
    """Which table of sines, and how many of its rows stand before the first position."""
    if not model.positions.startswith("sinusoidal"):
        return None
    return f"{model.positions}:{model.position_offset}"


def _parallel(model: Model) -> PartValue:
    if not model.parallel_residual:
        return False
    return "one_norm" if model.shared_parallel_norm else "two_norms"


def factors(written: PartValue) -> Multipliers:
    """The ``multipliers`` that a name carries."""
    names = (field.name for field in fields(Multipliers))
    return Multipliers(**dict(zip(names, map(float, str(written).split(":")), strict=True)))


def spec_name(model: Model) -> str | None:
    """What ``--spec`` names beside MODULE; None where stock layers do."""
    words = (name if value is True else f"{name}={value}" for name, value in parts(model).items())
    return ",".join(words) or None


def read_name(name: str) -> Parts | None:
    """The parts that ``spec_name`` wrote; None for other names."""
    pairs = [word.partition("=") for word in name.split(",")]
    if any(part not in NAMES for part, _, _ in pairs):
        return None
    return {part: _value(text) if equals else True for part, equals, text in pairs}


def _value(text: str) -> PartValue:
    try:
        return float(json.loads(text))
    except ValueError:
        return text
