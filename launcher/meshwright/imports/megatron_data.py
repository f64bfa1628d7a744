"""Megatron-LM's arguments -> our ``training.data``: which text, in which shares, by which tokenizer."""

from __future__ import annotations

import re
from typing import Any

from meshwright.imports.megatron_arguments import Arguments

__all__ = ["blend", "data", "shares"]

Flat = dict[str, Any]

_TOKENIZERS = {
    "HuggingFaceTokenizer": "huggingface",
    "SentencePieceTokenizer": "sentencepiece",
    "GPTSentencePieceTokenizer": "sentencepiece",
    "Llama2Tokenizer": "sentencepiece",
    "TikTokenizer": "tiktoken",
}


def data(a: Arguments) -> Flat:
    """Indexed datasets hold token ids: a tokenizer that only names the vocabulary is none of ours."""
    weights, paths = blend(a("data_path") or [])
    kind = _TOKENIZERS.get(a("tokenizer_type"), "null")
    path = a("tokenizer_model") if kind != "null" or a("tokenizer_type") == "NullTokenizer" else None
    flat: Flat = {
        "paths": paths,
        "weights": weights,
        "tokenizer.kind": kind if path else "null",
        "tokenizer.path": path,
    }
    if paths:
        flat["split"] = shares(a("split") or "969,30,1")  # training/arguments.py:651
    return {f"training.data.{name}": value for name, value in flat.items()}


def shares(split: str) -> str:
    """Three shares, as Megatron fills them up (core/datasets/utils.py parse_and_normalize_split)."""
    parts = [part.strip() for part in re.split("[,/]", split)]
    return ",".join([*parts, "0", "0"][: max(3, len(parts))])


def blend(words: list[str] | str) -> tuple[list[float], list[str]]:
    """Weights and paths that alternate, or paths alone (megatron/core/datasets/utils.py get_blend_from_list)."""
    words = words.split() if isinstance(words, str) else list(words)
    numbers = [_weight(word) for word in words[::2]]
    if len(words) > 1 and len(words) % 2 == 0 and None not in numbers:
        return [number for number in numbers if number is not None], words[1::2]
    return [], words


def _weight(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
