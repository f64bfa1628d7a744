"""Megatron-LM's arguments -> positions and the stretching of RoPE: the emitter read backwards (emit/megatron_model.py).

What nobody says is as in training/argument_utils.py; MLATransformerConfig's rope_type is yarn (megatron-core 0.19.2).
"""

from __future__ import annotations

from typing import Any

from meshwright.imports.megatron_arguments import Arguments

__all__ = ["CARRIED", "positions", "stretch"]

Flat = dict[str, Any]

CARRIED = {
    "model.positions": "position_embedding_type use_rotary_position_embeddings",
    "model.rope.base": "rotary_base",
    "model.rope.fraction": "rotary_percent",
    "model.rope.skip_every": "no_rope_freq",
    "model.rope.scaling": (
        "rope_type rotary_scaling_factor use_rope_scaling rope_scaling_factor rotary_seq_len_interpolation_factor "
        "mscale mscale_all_dim yarn_original_max_position_embeddings yarn_beta_fast yarn_beta_slow "
        "yarn_correction_range_round_to_int"
    ),
}
"""Arguments that make one of our values together."""


def positions(a: Arguments) -> Flat:
    """Which kind, and of RoPE its base, its part, the layers without it and its stretching."""
    kind = "rope" if a("use_rotary_position_embeddings") else a("position_embedding_type")
    flat: Flat = {"model.positions": {"learned_absolute": "learned", "yarn": "rope"}.get(kind, kind)}
    if kind not in ("rope", "yarn"):
        return flat
    flat["model.rope.base"] = float(a("rotary_base"))
    flat["model.rope.fraction"] = a("rotary_percent")
    skips = a("no_rope_freq") or 0
    flat["model.rope.skip_every"] = skips if isinstance(skips, int) else 0
    flat["model.rope.skip_full"] = not isinstance(skips, int)
    return flat | _scaling(a)


def _scaling(a: Arguments) -> Flat:
    if a("position_embedding_type") == "yarn":
        return _yarn_of_heads(a)
    if a("multi_latent_attention"):
        return _yarn(a) if a("rope_type") in (None, "yarn") else {}
    if a("use_rope_scaling"):
        return stretch(kind="llama3", factor=a("rope_scaling_factor"), original_positions=8192)
    if a("rotary_seq_len_interpolation_factor"):
        factor = a("rotary_seq_len_interpolation_factor")
        original = (a("max_position_embeddings") or factor) // factor
        return stretch(kind="linear", factor=float(factor), original_positions=original)
    return {}


def _yarn(a: Arguments) -> Flat:
    return stretch(
        kind="yarn",
        factor=a("rotary_scaling_factor"),
        original_positions=4096,
        mscale=a("mscale"),
        mscale_all_dim=a("mscale_all_dim"),
    )


def _yarn_of_heads(a: Arguments) -> Flat:
    return stretch(
        kind="yarn",
        factor=a("rotary_scaling_factor"),
        original_positions=a("yarn_original_max_position_embeddings") or 4096,
        beta_fast=a("yarn_beta_fast") or 32.0,
        beta_slow=a("yarn_beta_slow") or 1.0,
        mscale=a("mscale"),
        mscale_all_dim=a("mscale_all_dim"),
        truncate=a("yarn_correction_range_round_to_int") is not False,
    )


def stretch(**values: Any) -> Flat:
    """Values of ``model.rope.scaling`` by dotted path."""
    return {f"model.rope.scaling.{name}": value for name, value in values.items()}
