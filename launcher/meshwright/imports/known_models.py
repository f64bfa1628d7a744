"""Models of ours by the names that other frameworks give them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from meshwright.compose import CONF, compose

__all__ = ["known_model", "vocabulary_of"]


def known_model(name: str) -> dict[str, Any]:
    """The values of our model of that name (``llama3_8B``, ``Llama-3-8B``) by path; empty where there is none."""
    wanted = _bare(name)
    options = [path.stem for path in (CONF / "model").glob("*.yaml") if not path.stem.startswith("_")]
    found = next((option for option in sorted(options) if _bare(option) == wanted), None)
    return dict(_flat(compose([f"model={found}"])["model"], "model")) if found and wanted else {}


def vocabulary_of(name: str) -> int | None:
    """The tokens of the model that a tokenizer is named by."""
    size = known_model(name).get("model.vocab")
    return size if isinstance(size, int) else None


_TUNED = re.compile(
    r"[-_](instruct|base|chat|hf|it|sft|dpo|bf16|fp8|v0\.\d|\d{4}|math|coder|preview|thinking)(?=[-_]|$)"
)


def _bare(name: str) -> str:
    """Without its owner and what it was tuned for: only sizes count."""
    text = _TUNED.sub("", name.lower().rstrip("/").rsplit("/", 1)[-1])
    text = re.sub(r"^meta-", "", re.sub(r"llama-?3\.[13]", "llama3", text))
    text = {"deepseek-r1": "deepseek-v3"}.get(text, re.sub(r"^qwen2-(?=[\d.]+b$)", "qwen2.5-", text))  # the same sizes
    return re.sub(r"[^a-z0-9]", "", text)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}")
    elif value is not None and path != "model.auto":
        yield path, value
