"""What flags passed through in ``backend.megatron.extra`` set in Megatron's configuration objects.

The table is megatron-core 0.19.2's own parser and dataclasses (data/megatron_flags.json, written by
benchmarks/megatron_flags.py), so that both ways of starting a run carry what is passed through.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

__all__ = ["overlaid"]

Kwargs = dict[str, Any]


def overlaid(made: Mapping[str, Kwargs], extra: Sequence[str]) -> dict[str, Kwargs]:
    """Keyword arguments by the name of what takes them, with what ``extra`` sets on top."""
    result = {name: dict(values) for name, values in made.items()}
    for flag, words in _flags(extra) if extra else ():
        row = _table().get(flag, {"fields": {}})
        for kind, field in row["fields"].items():
            if kind in result and _read(row, result[kind]):
                result[kind] |= {field: _value(row["reads"], words), **row.get("implies", {})}
    return result


def _read(row: Mapping[str, Any], values: Kwargs) -> bool:
    """Whether Megatron reads the flag for such an MLP: it has one of its own for SwiGLU."""
    swiglu = values.get("activation_func") == "silu" and bool(values.get("gated_linear_unit"))
    return bool(row.get("swiglu", swiglu) == swiglu)


def _flags(extra: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with the words behind it; ``--flag=value`` is one word of both."""
    words = [part for word in extra for part in (word.split("=", 1) if word.startswith("--") else [word])]
    count = 0
    numbered = []
    for word in words:
        count += word.startswith("--")
        numbered.append((count, word))
    for _, group in groupby(numbered, key=lambda pair: pair[0]):
        flag, *values = (word for _, word in group)
        yield flag, values


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = files("meshwright").joinpath("data/megatron_flags.json").read_text("utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table


def _value(reads: str, words: list[str]) -> Any:
    """As Megatron's parser reads them; words that it will refuse are left as they are, for it to say so."""
    single: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "python": ast.literal_eval}
    try:
        if reads in single:
            return single[reads](words[0])
        if reads.removesuffix("s") in single:
            return [single[reads.removesuffix("s")](word) for word in words]
    except (ValueError, SyntaxError, IndexError):
        return " ".join(words)
    return json.loads(reads)
