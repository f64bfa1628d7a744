"""What transformers calls things, without importing it: data/transformers.json, one row a causal language model.

Written by benchmarks/transformers_configs.py from transformers 5.24; a test holds the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from meshwright.spec.frozen import dataclass

__all__ = ["Names", "names"]


@dataclass(frozen=True)
class Names:
    """One model_type: its class, other names of its keys, the switches that are on unless a file says otherwise."""

    cls: str
    synonyms: Mapping[str, str]  # to the name that transformers writes
    on: frozenset[str]

    def canonical(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config`` under the names that transformers writes.

        Raises:
            ValueError: where two names of one thing hold different values.

        """
        renamed: dict[str, Any] = {}
        for key, value in config.items():
            name = self.synonyms.get(key, key)
            if name in renamed and renamed[name] != value and None not in (renamed[name], value):
                raise ValueError(
                    f"{name}: contradicts one of its other names: {key} is {value!r}, not {renamed[name]!r}"
                )
            renamed[name] = renamed.get(name) if value is None else value
        return renamed


def names(model_type: object) -> Names | None:
    """Of a ``model_type``; None where transformers has no such causal language model."""
    row = _table().get(str(model_type))
    return None if row is None else Names(row["class"], row["synonyms"], frozenset(row["on"]))


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = files("meshwright").joinpath("data/transformers.json").read_text("utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table
