"""The architecture behind a measured run: sizes from its columns, the rest from the family its name belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshwright.count import total_parameters
from meshwright.spec_model import Mla, Model, Moe

__all__ = ["model_of"]

_GATED = ("llama", "mixtral", "deepseek", "qwen", "kimi", "gpt-oss", "grok", "gemma", "yi")
_HEAD_DIM = {"qwen3": 128}
_DEEPSEEK = Mla(
    q_lora_rank=1536, kv_lora_rank=512, qk_nope_dim=128, qk_rope_dim=64, v_dim=128
)  # arXiv 2405.04434, 2412.19437


def model_of(record: Mapping[str, str], dropout: float, attention_dropout: float) -> Model:
    """The model of one row; whether embeddings are tied is what comes nearest to the published parameters."""
    name = (record.get("model") or "").lower()
    gated = any(word in name for word in _GATED)
    hidden, heads = int(record["hidden"]), int(record["heads"])
    latent = "deepseek" in name and ("v2" in name or "v3" in name)
    moe = _moe(record, name)
    model = Model(
        name=name,
        layers=int(record["layers"]),
        hidden=hidden,
        ffn=int(record.get("ffn") or 4 * hidden),
        heads=heads,
        kv_heads=int(record.get("kv_heads") or heads),
        head_dim=_HEAD_DIM.get(name.split("-")[0], hidden // heads) if not name.startswith("gpt-oss") else 64,
        vocab=int(record.get("vocab") or 51200),
        max_positions=int(record["seq"]),
        activation="swiglu" if gated else "squared_relu" if "nemotron" in name else "gelu",
        norm="rmsnorm" if gated else "layernorm",
        positions="rope" if gated or "nemotron" in name else "learned",
        linear_bias=not gated and "nemotron" not in name and "mpt" not in name,
        attention_dropout=attention_dropout,
        hidden_dropout=dropout,
        mla=_DEEPSEEK if latent else None,
        moe=moe,
    )
    published = float(record.get("params_b") or 0) * 1e9
    tied = replace(model, tied_embeddings=True)
    return min(model, tied, key=lambda m: abs(total_parameters(m) - published)) if published else model


def _moe(record: Mapping[str, str], name: str) -> Moe | None:
    if not record.get("num_experts"):
        return None
    ffn = int(record.get("moe_ffn") or record["ffn"])
    shared = 2 * ffn if "v2" in name and "deepseek" in name else ffn if "deepseek-v3" in name or "v3" in name else 0
    first = 0
    if "deepseek" in name:
        first = 3 if "v3" in name else 1
        first = min(first, 1) if int(record["layers"]) <= 8 else first
    return Moe(
        experts=int(record["num_experts"]),
        topk=int(record.get("topk") or 2),
        ffn=ffn,
        shared_ffn=shared,
        first_dense=first,
    )
