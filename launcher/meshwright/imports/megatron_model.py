"""Megatron-LM's arguments -> our ``model``: the emitter read backwards (emit/megatron_model.py).

What Megatron derives where nothing is said is derived as it does (megatron-core 0.19.2, training/arguments.py:1280,
:1551, :1571).
"""

from __future__ import annotations

from math import isclose
from typing import Any

from meshwright.imports.known_models import vocabulary_of
from meshwright.imports.megatron_arguments import Arguments
from meshwright.imports.megatron_mixers import layers, listed_windows
from meshwright.imports.megatron_moe import dense_width, experts
from meshwright.imports.megatron_parts import our_layers
from meshwright.imports.megatron_rope import positions

__all__ = ["CARRIED", "PLAIN", "REQUIRED", "grouped", "model"]

Flat = dict[str, Any]

REQUIRED = {
    "model.layers": "num_layers",
    "model.hidden": "hidden_size",
    "model.heads": "num_attention_heads",
    "model.vocab": "vocab_size",
    "model.max_positions": "max_position_embeddings",
}
"""What Megatron asks for, or reads from a tokenizer that we do not have."""

PLAIN = {
    "model.norm_eps": "layernorm_epsilon",
    "model.norm_zero_centered": "layernorm_zero_centered_gamma",
    "model.linear_bias": "add_bias_linear",
    "model.qkv_bias": "add_qkv_bias",
    "model.attention_gate": "attention_output_gate",
    "model.activation_clamp": "activation_func_clamp_value",
    "model.activation_offset": "glu_linear_offset",
    "model.init_std": "init_method_std",
    "model.attention_dropout": "attention_dropout",
    "model.hidden_dropout": "hidden_dropout",
}
"""One argument each, the same value."""

CARRIED = {
    "model.ffn": "ffn_hidden_size",
    "model.kv_heads": "group_query_attention num_query_groups",
    "model.head_dim": "kv_channels",
    "model.vocab": "padded_vocab_size",
    "model.activation": (
        "swiglu quick_geglu squared_relu openai_gelu glu_activation xielu use_fused_weighted_squared_relu"
    ),
    "model.norm": "normalization",
    "model.tied_embeddings": "untie_embeddings_and_output_weights",
    "model.qk_norm": "qk_layernorm qk_l2_norm",
    "model.attention_sinks": "softmax_type",
    "model.embedding_scale": "mup_embedding_mult use_mup",
    "model.attention_scale": "mup_base_head_dim",
    "model.logit_scale": "mup_output_mult",
    "model.sliding_window": "window_size",
    "model.full_attention_every": "window_attn_skip_freq",
    "model.mla": "multi_latent_attention q_lora_rank kv_lora_rank qk_head_dim qk_pos_emb_head_dim v_head_dim",
    "model.embedding_norm": "embed_layernorm",
    "model.mtp": "mtp_num_layers",
    "model.mtp_loss_weight": "mtp_loss_scaling_factor",
    "model.mtp_repeated": "mtp_use_repeated_layer",
    "model.mtp_detached": "mtp_detach_heads",
}
"""Arguments that make one of our values together."""


def model(a: Arguments) -> Flat:
    """Every value of the model by its dotted path; sizes that the source lacks are left out."""
    stated = {path: a(name) for path, name in REQUIRED.items() if a(name) is not None}
    if "model.vocab" not in stated:
        stated |= vocabulary(a)
    plain = {path: a(name) for path, name in PLAIN.items()}
    parts = [_sizes(a), _activation(a), _attention(a), positions(a), _latent(a), experts(a), our_layers(a)]
    flat: Flat = {**plain, **stated, "model.embedding_norm": bool(a("embed_layernorm"))}
    flat["model.tied_embeddings"] = not a("untie_embeddings_and_output_weights")
    for part in parts:
        flat |= part
    return flat | _rows(flat) | layers(a)


def _rows(flat: Flat) -> Flat:
    """A table of positions with rows before the first one has as many more."""
    rows, before = flat.get("model.max_positions"), flat.get("model.position_offset", 0)
    return {"model.max_positions": rows - before} if before and isinstance(rows, int) else {}


GPT2_TOKENS = 50257  # the vocabulary of GPT-2 (Radford et al. 2019, section 2.2), which GPT2BPETokenizer reads


def vocabulary(a: Arguments) -> Flat:
    """Where no size is stated: the tokenizer that has one size only, or the padded size that a log prints.

    It is the one that pretrain_gpt.py takes by itself; its merges then stand on the command line.
    """
    if a("tokenizer_type") == "GPT2BPETokenizer" or (not a.says("tokenizer_type") and a.says("merge_file")):
        return {"model.vocab": GPT2_TOKENS}
    if a("padded_vocab_size"):
        return {"model.vocab": a("padded_vocab_size")}
    named = a("tokenizer_model") if a("tokenizer_type") in ("HuggingFaceTokenizer", "PretrainedFromHF") else None
    size = vocabulary_of(str(named)) if named else None
    return {"model.vocab": size} if size else {}


def _sizes(a: Arguments) -> Flat:
    hidden, heads = a("hidden_size"), a("num_attention_heads")
    flat: Flat = {"model.mtp": a("mtp_num_layers") or 0, "model.mtp_loss_weight": a("mtp_loss_scaling_factor")}
    if a("mtp_num_layers"):
        flat |= {"model.mtp_repeated": a("mtp_use_repeated_layer"), "model.mtp_detached": a("mtp_detach_heads")}
    flat["model.norm"] = {"RMSNorm": "rmsnorm", "LayerNorm": "layernorm"}.get(a("normalization"), a("normalization"))
    if hidden:
        flat["model.ffn"] = dense_width(a)
    if a("kv_channels") or (hidden and heads):
        flat["model.head_dim"] = a("kv_channels") or hidden // heads
    if heads:
        flat["model.kv_heads"] = a("num_query_groups") if grouped(a) else heads
    return flat


def grouped(a: Arguments) -> bool:
    """Whether heads share keys and values: forks' flags for it need no second one."""
    said = a.given.get("num_query_groups")
    return bool(a("group_query_attention")) or (
        said is not None and said.key in ("--num-key-value-heads", "--n-head-kv")
    )


def _activation(a: Arguments) -> Flat:
    """The fused bias-GELU kernel, which wants biases, is the tanh approximation; alone GELU is exact."""
    if a("swiglu") or a("glu_activation") in ("swiglu", "geglu"):
        return {"model.activation": a("glu_activation") or "swiglu"}
    if named := next((name for name in ("quick_geglu", "squared_relu", "xielu") if a(name)), None):
        return {"model.activation": named}
    tanh = a("add_bias_linear") and (a("bias_gelu_fusion") or a("openai_gelu"))
    return {"model.activation": "gelu_tanh" if tanh else "gelu"}


def _attention(a: Arguments) -> Flat:
    window, every = a("window_size"), a("window_attn_skip_freq") or 0
    if not isinstance(every, int):
        every, window = 0, window if listed_windows(a) else None
    headed = "head" if a("qk_layernorm") and not a("multi_latent_attention") else "none"
    flat: Flat = {"model.qk_norm": "l2" if a("qk_l2_norm") else headed}
    flat["model.attention_sinks"] = a("softmax_type") == "learnable"
    flat["model.sliding_window"] = window[0] + 1 if isinstance(window, list | tuple) else None
    flat["model.full_attention_every"] = every if window else 0
    if a("use_mup"):
        multiplier = a("mup_embedding_mult")
        flat["model.embedding_scale"] = None if multiplier == 1.0 else multiplier
        flat["model.logit_scale"] = None if a("mup_output_mult") == 1.0 else a("mup_output_mult")
        flat |= _scale(a)
    return flat


def _scale(a: Arguments) -> Flat:
    """Of the scores, where it is another than the usual one; MLA has its own (multi_latent_attention.py)."""
    head_dim, base = _sizes(a).get("model.head_dim"), a("mup_base_head_dim") or 1.0
    if not head_dim or a("multi_latent_attention") or isclose(base, head_dim):
        return {}
    return {"model.attention_scale": base**0.5 / head_dim}


def _latent(a: Arguments) -> Flat:
    if not a("multi_latent_attention"):
        return {}
    return {
        "model.mla.q_lora_rank": a("q_lora_rank"),
        "model.mla.kv_lora_rank": a("kv_lora_rank"),
        "model.mla.qk_nope_dim": a("qk_head_dim"),
        "model.mla.qk_rope_dim": a("qk_pos_emb_head_dim"),
        "model.mla.v_dim": a("v_head_dim"),
    }
