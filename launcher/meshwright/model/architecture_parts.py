"""Parts of config.json that take more than one key, or compute: rotary positions, experts, attention.

``PARTS`` are their names in data/architectures/*.yaml, ``VALUES`` those of the ways in which transformers calls values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from meshwright.model.architecture_convolutions import adjusted_width, convolution_layers
from meshwright.model.architecture_embedding import scaled_embedding
from meshwright.model.architecture_granite import granite_layers
from meshwright.model.architecture_layers import (
    chunked_layers,
    dense_layers,
    expert_layers,
    layer_kinds,
    leading_dense,
    listed_experts,
    local_attention,
    without_rope,
)
from meshwright.model.architecture_mixers import (
    indexed_layers,
    lightning_layers,
    linear_attention,
    mamba_layers,
    nemotron_layers,
    parallel_mixers,
)
from meshwright.model.architecture_rope import layered_rope, rope
from meshwright.model.architectures import Flat, Part, refuse_unless

__all__ = ["PARTS", "VALUES"]

_GATED = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh"}
_PLAIN = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "squared_relu": "relu2"}
# the same functions
_ALIASES = {"swish": "silu", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu_new": "gelu_pytorch_tanh"}


def _activations(table: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    ours = {theirs: our for our, theirs in table.items()}
    return table, ours | {a: ours[theirs] for a, theirs in _ALIASES.items() if a not in ours and theirs in ours}


def _integer(number: float) -> float:
    """As an integer where it is one."""
    return int(number) if number == int(number) else number


def _whole(number: float) -> float:
    """``1/scale²`` was an integer before the root was taken."""
    return round(number) if abs(number - round(number)) < 1e-6 * number else number


def _reciprocal(divisor: float) -> float | None:
    return None if divisor == 1.0 else 1 / divisor


VALUES: Mapping[str, tuple[Any, Any]] = {
    "gated": _activations(_GATED),
    "plain": _activations(_PLAIN),
    "plain tanh": _activations(_PLAIN | {"gelu_tanh": "gelu_pytorch_tanh"}),
    "factor": (lambda factor: 1.0 if factor is None else factor, lambda given: None if given == 1.0 else given),
    "divisor": (lambda factor: 1.0 if factor is None else _whole(1 / factor), lambda given: _reciprocal(given)),
    "inverse square": (lambda scale: _whole(scale**-2), lambda scalar: scalar**-0.5),
}
"""How a field's values are called in config.json, and back: mappings or functions."""


def router_loss(aux: float = 0.001) -> Part:
    """Transformers adds the auxiliary loss only where it returns the router's logits."""

    def write(flat: Flat) -> Flat:
        used = flat["moe.balancing"] != "none" and flat["moe.aux_loss"] > 0
        return {"router_aux_loss_coef": flat["moe.aux_loss"], "output_router_logits": used}

    def read(config: Flat) -> Flat:
        return {"moe.aux_loss": config.get("router_aux_loss_coef", aux)}

    return Part(("router_aux_loss_coef", "output_router_logits"), ("moe.aux_loss",), write, read)


def shared_experts(key: str = "n_shared_experts", ffn: str = "moe_intermediate_size") -> Part:
    """DeepSeek counts its shared experts in sizes of one routed expert."""
    return Part(
        (key,),
        ("moe.shared_ffn",),
        lambda flat: {key: flat["moe.shared_ffn"] // flat["moe.ffn"]},
        lambda config: {"moe.shared_ffn": (config.get(key) or 0) * config[ffn]},
    )


def mpt_attention() -> Part:
    """MPT's attention is a configuration within; its slopes are BLOOM's where the heads are a power of two."""

    def read(config: Flat) -> Flat:
        inner, heads = config.get("attn_config") or {}, config["n_heads"]
        usual = {"alibi": True, "alibi_bias_max": 8, "qk_ln": False, "clip_qkv": None, "softmax_scale": None}
        for name, value in usual.items():
            refuse_unless(inner.get(name, value) == value, f"attn_config.{name}", inner.get(name))
        refuse_unless(heads & (heads - 1) == 0, "n_heads", f"{heads}, no power of two,")
        return {"attention_dropout": float(inner.get("attn_pdrop", 0.0))}

    def write(flat: Flat) -> Flat:
        return {"attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_pdrop": _integer(flat["attention_dropout"])}}

    return Part(("attn_config",), ("attention_dropout",), write, read)


def rotary_channels(channels: int) -> Part:
    """GPT-J says how many channels of a head are rotated."""
    return Part(
        ("rotary_dim",),
        ("rope.fraction",),
        lambda flat: {"rotary_dim": round(flat["rope.fraction"] * flat["head_dim"])},
        lambda config: {
            "rope.fraction": (config.get("rotary_dim") or channels) * config["n_head"] / config["n_embd"],
        },
    )


def depth_scales() -> Part:
    """MiniCPM's factors follow from its depth and from the width of the small model that was tuned."""

    def write(flat: Flat) -> Flat:
        depth, width = (flat["residual_scale"] or 1.0) * flat["layers"] ** 0.5, (flat["logit_scale"] or 1.0)
        return {"scale_depth": round(depth, 9), "dim_model_base": round(width * flat["hidden"])}

    def read(config: Flat) -> Flat:
        residual = config.get("scale_depth", 1.0) / config["num_hidden_layers"] ** 0.5
        logits = config.get("dim_model_base", config["hidden_size"]) / config["hidden_size"]
        return {"residual_scale": residual, "logit_scale": None if logits == 1.0 else logits}

    return Part(("scale_depth", "dim_model_base"), ("residual_scale", "logit_scale"), write, read)


def multi_query() -> Part:
    """GPTBigCode has one key/value head or as many as queries."""
    return Part(
        ("multi_query", "num_key_value_heads"),
        ("kv_heads",),
        lambda flat: {"multi_query": flat["kv_heads"] == 1},
        lambda config: {"kv_heads": 1 if config.get("multi_query", True) else config["n_head"]},
    )


def falcon_decoder() -> Part:
    """Falcon's two forms: the new one says its key/value heads and norms, the first one has switches (modeling_falcon).

    Read: without ``new_decoder_architecture``, ``multi_query`` means one key/value head, and a parallel block one norm.
    """
    keys = ("new_decoder_architecture", "multi_query", "parallel_attn", "num_kv_heads", "num_ln_in_parallel_attn")
    return Part(keys, ("kv_heads", "parallel_residual", "shared_parallel_norm"), _write_falcon, _read_falcon)


def _write_falcon(flat: Flat) -> Flat:
    parallel, shared, heads = flat["parallel_residual"], flat["shared_parallel_norm"], flat["kv_heads"]
    new = parallel and not (shared and heads == 1)
    norms = {"num_ln_in_parallel_attn": 1 if shared else 2} if new else {}
    one = {"new_decoder_architecture": new, "multi_query": heads == 1, "parallel_attn": parallel}
    return {**one, "num_kv_heads": heads, **norms}


def _read_falcon(config: Flat) -> Flat:
    heads, parallel = config["num_attention_heads"], config.get("parallel_attn", True)
    if config.get("new_decoder_architecture", False):
        shared = (config.get("num_ln_in_parallel_attn") or 2) == 1
        kv_heads = config.get("num_kv_heads") or heads
        refuse_unless(parallel, "parallel_attn", parallel)
    else:
        shared = parallel
        kv_heads = 1 if config.get("multi_query", True) else config.get("num_kv_heads") or heads
    return {"kv_heads": kv_heads, "parallel_residual": parallel, "shared_parallel_norm": shared}


PARTS: Mapping[str, Callable[..., Part]] = {
    "granite_layers": lambda: granite_layers(rope()),
    "rope": rope,
    "layered_rope": layered_rope,
    "layer_kinds": layer_kinds,
    "without_rope": without_rope,
    "router_loss": router_loss,
    "shared_experts": shared_experts,
    "leading_dense": leading_dense,
    "listed_experts": listed_experts,
    "chunked_layers": chunked_layers,
    "dense_layers": dense_layers,
    "expert_layers": expert_layers,
    "depth_scales": depth_scales,
    "local_attention": local_attention,
    "rotary_channels": rotary_channels,
    "mpt_attention": mpt_attention,
    "multi_query": multi_query,
    "falcon_decoder": falcon_decoder,
    "indexed_layers": indexed_layers,
    "lightning_layers": lightning_layers,
    "linear_attention": linear_attention,
    "mamba_layers": mamba_layers,
    "scaled_embedding": scaled_embedding,
    "nemotron_layers": nemotron_layers,
    "parallel_mixers": parallel_mixers,
    "convolution_layers": convolution_layers,
    "adjusted_width": adjusted_width,
}
