"""A small configuration of the same class: found by trying, for each class has its own ties between sizes.

Heads, channels of a head, and widths shrink by factors whose products agree (a width is heads times channels), experts
and layers become few, and the first of these configurations that builds, runs and gives a gradient is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from meshwright.model.layers.measured import SMALL_POSITIONS, SMALL_VOCABULARY

__all__ = ["small_config"]

FACTORS = ((8, 8), (4, 8), (2, 8), (1, 8), (8, 4), (4, 4), (2, 4), (1, 4), (2, 2), (1, 2), (4, 1), (1, 1))
"""Of the number of heads and of the channels of each; widths shrink by the product."""

MOST = 40_000_000  # parameters
POSITIONS, VOCABULARY, WINDOW, EXPERTS = SMALL_POSITIONS, SMALL_VOCABULARY, 16, 4

_HEADS = re.compile(r"(^|_)(num|n)_(.*_)?(heads?|groups)$|_heads?$|_n_groups$|^n_groups$")
_CHANNELS = re.compile(r"head_dim$|_d_head$|_head_size$|d_state$|state_size$|kv_channels|_rank$|_rope_dim")
_WIDTHS = re.compile(
    r"(hidden|intermediate|embedding|ffn|latent|expert|mlp|inner|conv)\w*_(size|dim)$|d_model|n_embd$|_width$|n_inner|^ffn_dim|dim$|_size_mlp$"
)
_LAYERS = re.compile(r"^(num|n)_(hidden_)?layers?$|^n_layer$")
_POSITIONS = re.compile(r"max_position|n_positions|max_seq|seq_length|n_ctx|original_max")
_RANDOM = re.compile(r"dropout|pdrop|layerdrop|jitter")  # its numbers depend on the layout
_NEVER = re.compile(r"vocab|token|_id$|_ids$|kernel|chunk|patch|image|conv_dim|per_layer_input")


def small_config(config: Mapping[str, Any], cls: str) -> str | None:
    """Its text; None where none of the class ``cls`` trains a step here."""
    for heads, channels in FACTORS:
        for layers in (_period(config), 2 * _period(config)):
            small = _shrunk(config, heads, channels, max(2, layers))
            if _trains(small, cls):
                return json.dumps(small)
    return None


def _trains(config: Mapping[str, Any], cls: str) -> bool:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        settings = AutoConfig.for_model(**config)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(settings).parameters())
        if size > MOST:
            return False
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).train()
        words = torch.randint(0, VOCABULARY, (2, 64))
        logits = model(input_ids=words, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2).float(), words.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception:
        return False
    return type(model).__name__ == cls and bool(torch.isfinite(loss)) and logits.shape[-1] == VOCABULARY


def _period(config: Mapping[str, Any]) -> int:
    """Layers until every kind has come once; of a nested configuration those of its text."""
    nested = config.get("text_config")
    text = nested if isinstance(nested, Mapping) else config
    kinds = [value for value in text.values() if isinstance(value, list) and len(value) > 4]
    return max([1, *(_until_all(each) for each in kinds if len({str(one) for one in each}) < 6)])


def _until_all(kinds: list[Any]) -> int:
    return max(kinds.index(kind) for kind in kinds) + 1


def _shrunk(config: Mapping[str, Any], heads: int, channels: int, layers: int) -> dict[str, Any]:
    deep = next((v for k, v in config.items() if _LAYERS.search(k) and isinstance(v, int)), None)
    return {key: _value(key, value, heads, channels, layers, deep) for key, value in config.items()}


def _value(key: str, value: Any, heads: int, channels: int, layers: int, deep: int | None) -> Any:
    if isinstance(value, Mapping):
        return _shrunk(value, heads, channels, layers)
    if isinstance(value, list) and len(value) == deep:
        return value[:layers]
    if isinstance(value, str) and len(value) == deep:
        return value[:layers]
    if isinstance(value, float) and _RANDOM.search(key):
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return next(_sizes(key, value, heads, channels, layers), value)


def _sizes(key: str, value: int, heads: int, channels: int, layers: int) -> Iterator[int | None]:
    """What becomes of a whole number, by the name of its key."""
    if key.endswith("token_id"):
        yield min(value, VOCABULARY - 1)
    if key.endswith(("vocab_size", "vocabulary_size")):
        yield VOCABULARY
    if _NEVER.search(key) or value <= 1:
        yield value
    if _LAYERS.search(key):
        yield layers
    if _POSITIONS.search(key):
        yield min(value, POSITIONS)
    if "window" in key:
        yield min(value, WINDOW)
    if "experts" in key or key.endswith("topk") or "topk_group" in key or key in ("n_group", "moe_k"):
        chosen = "per_tok" in key or "topk" in key or key == "moe_k" or "shared" in key
        yield 1 if "group" in key else min(value, EXPERTS // 2 if chosen else EXPERTS)
    if "first_k_dense" in key:
        yield min(value, 1)
    if _HEADS.search(key):
        yield max(1, value // heads)
    if _CHANNELS.search(key):
        yield max(4, value // channels)
    if _WIDTHS.search(key):
        yield max(8, value // (heads * channels))
