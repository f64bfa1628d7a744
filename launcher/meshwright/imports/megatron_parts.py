"""The parts of our own layers (``--spec``, model/megatron_parts.py) -> values of the model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from meshwright.imports.megatron_arguments import Arguments
from meshwright.imports.megatron_mixers import of_ours, ours
from meshwright.imports.megatron_rope import stretch
from meshwright.model.megatron_parts import PartValue, factors

__all__ = ["our_layers"]

Flat = dict[str, Any]


_PATHS = {
    "experts_norm": "moe.output_norm",
    "alibi": "positions",
    "local_base": "rope.local_base",
    "norms": "norm_placement",
}
"""Where a part's name is not that of the field."""


def our_layers(a: Arguments) -> Flat:
    """What ``--spec`` brings along, where the layers are ours."""
    flat: Flat = {}
    for part, value in (ours(a) or {}).items():
        flat |= of_ours(a, str(value)) if part == "mixers" else _part(part, value)
    return flat


def _part(part: str, value: PartValue) -> Flat:
    if part == "parallel_residual":
        return {"model.parallel_residual": True, "model.shared_parallel_norm": value == "one_norm"}
    if part in ("qk_norm", "llama3_stretch", "positions"):
        return _joined(part, str(value))
    if part == "multipliers":
        return {f"model.multipliers.{name}": factor for name, factor in asdict(factors(value)).items()}
    if part == "plain_mamba":
        return {"model.mamba.norm": False}
    if part == "short_convolution":
        return {"model.short_convolution.kernel": int(float(value))}
    if part in ("lightning", "plain_queries"):
        return {}  # the pattern and the flags say it, too
    if part == "router_bias":
        return _router_bias(frozenset(str(value).split("+")))
    if part == "embedding_norm":
        return {"model.embedding_norm": True, "model.norm_before_positions": value == "words"}
    return {f"model.{_PATHS.get(part, part)}": "alibi" if part == "alibi" else value}


def _router_bias(words: frozenset[str]) -> Flat:
    flat: Flat = {"model.moe.bias_parameter": "parameter" in words, "model.moe.normalize_topk": "raw" not in words}
    flat |= {"model.moe.bias_on": "logits" if "logits" in words else "scores"}
    return {**flat, **({"model.moe.score": "softmax"} if "softmax" in words else {})}


def _joined(part: str, value: str) -> Flat:
    """Parts that say in one word what takes several fields, or other ones."""
    if part == "qk_norm":
        return {"model.qk_norm": value}
    if part == "positions":
        kind, offset = value.split(":")
        return {"model.positions": kind, "model.position_offset": int(offset)}
    names = ("low_freq_factor", "high_freq_factor", "original_positions")
    low, high, original = (float(number) for number in value.split(":"))
    return stretch(**dict(zip(names, (low, high, int(original)), strict=True)))
