"""Values that are sets: ``parallelism.tp=[1,2,4]`` leaves the choice to a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

__all__ = ["WORLD", "descend", "split_sets", "values_of"]

WORLD = ("cluster.gpus", "cluster.nodes")


def split_sets(composed: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The composed values with one value in the place of each set, and what was stated for each searched path."""
    plain: dict[str, Any] = deepcopy(dict(composed))
    stated: dict[str, tuple[Any, ...]] = {}
    for override_ in overrides:
        path = override_.partition("=")[0].lstrip("+~")
        *parents, last = path.split(".")
        if not parents or not (path.startswith("parallelism.") or path in ("training.micro_batch", *WORLD)):
            continue
        holder, given = descend(plain, parents), descend(composed, parents)
        if holder is None or given is None or last not in holder:
            continue
        values = values_of(path, given[last])
        holder[last] = values[0]
        if values != (None,):
            stated[path] = values
    return plain, {p: v for p, v in stated.items() if p not in WORLD or len(v) > 1}


def descend(data: Any, path: Sequence[str]) -> Any:
    """The mapping at ``path`` in nested ones, None where there is none."""
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else None


def values_of(path: str, value: Any) -> tuple[Any, ...]:
    """A list is a set of values; of lists, for the one key that is a list itself."""
    if path.endswith("recompute_modules"):
        several = isinstance(value, list) and value and isinstance(value[0], list)
        return tuple(tuple(v) for v in value) if several else (None if value is None else tuple(value),)
    return tuple(value) if isinstance(value, list) and value else (value,)
