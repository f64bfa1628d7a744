"""Models of ours by the names that other frameworks give them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from meshwright.compose import CONF, compose

__all__ = ["known_model"]


def known_model(name: str) -> dict[str, Any]:
    """The values of our model of that name (``llama3_8B``, ``Llama-3-8B``) by path; empty where there is none."""
    wanted = _bare(name)
    options = [path.stem for path in (CONF / "model").glob("*.yaml") if not path.stem.startswith("_")]
    found = next((option for option in sorted(options) if _bare(option) == wanted), None)
    return dict(_flat(compose([f"model={found}"])["model"], "model")) if found and wanted else {}


def _bare(name: str) -> str:
    text = re.sub(r"^(meta|qwen|mistralai|allenai|deepseek-ai)/", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", text.replace("3.1", "3").removeprefix("meta-"))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}")
    elif value is not None and path != "model.auto":
        yield path, value
