"""Flags and JSON keys that are written differently for two plans."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import PurePath
from typing import Any

import yaml

from meshwright.compare.numbers import Number, unequal
from meshwright.emit.backends import FILES
from meshwright.layout.plan import Plan
from meshwright.resolver import refusals

__all__ = ["TWICE", "emitted", "settings"]

TWICE = frozenset({"megatron/kwargs.json"})
"""Files that say again what another one says (and, for those who build objects by hand, what no layer reads)."""


def emitted(a: Plan, b: Plan) -> tuple[Number, ...]:
    """For each backend that one of them launches, the settings that differ; refusals among them."""
    backends = dict.fromkeys(plan.spec.backend.name for plan in (a, b))
    return tuple(pair for backend in backends for pair in unequal(_of(a, backend), _of(b, backend)))


def settings(texts: Mapping[str, str]) -> dict[str, Any]:
    """Flags by their name, keys of JSON and YAML by file and dotted path; None is a flag without a value."""
    found: dict[str, Any] = {}
    for path, text in texts.items():
        name = PurePath(path).name
        if name == "args.txt":
            found |= _flags(shlex.split(text))
        elif name.endswith(".json") and path not in TWICE:
            found |= {f"{name}: {key}": value for key, value in _leaves(json.loads(text), "")}
        elif name.endswith(".yaml"):
            found |= {f"{name}: {key}": value for key, value in _leaves(yaml.safe_load(text), "")}
    return found


def _of(plan: Plan, backend: str) -> dict[str, Any]:
    problems = refusals(plan.spec, backend) if backend != plan.spec.backend.name else []
    if problems:
        return {f"{backend} refuses": str(problems[0])}
    return settings(FILES[backend](plan))


def _flags(words: list[str]) -> dict[str, Any]:
    """Each flag with the words behind it."""
    places = [i for i, word in enumerate(words) if word.startswith("--")]
    ends = [*places[1:], len(words)]
    said = sorted((words[i], words[i + 1 : end]) for i, end in zip(places, ends, strict=True))
    grouped = ((flag, [word for _, values in of for word in values]) for flag, of in groupby(said, lambda one: one[0]))
    return {flag: " ".join(values) or True for flag, values in grouped}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}".lstrip("."))
    else:
        yield path, value
