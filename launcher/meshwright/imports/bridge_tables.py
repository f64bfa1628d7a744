"""Mappings in a ConfigContainer that are one value: tables of user buffers, and recipes of precision by module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from meshwright.imports.documents import Leaves

__all__ = ["joined", "recipe", "table"]

_WHOLE = ("model.tp_comm_overlap_cfg", "comm_overlap.tp_comm_overlap_cfg", "model.quant_recipe")
_TARGET = "_target_"


def joined(leaves: Leaves) -> Leaves:
    """Each of these as one leaf, at the place of its first."""
    made: Leaves = {}
    for key, one in leaves.items():
        name = next((whole for whole in _WHOLE if key.startswith(f"{whole}.")), None)
        if name is None:
            made[key] = one
        else:
            made.setdefault(name, replace(one, key=name, value={}))
            _put(made[name].value, key.removeprefix(f"{name}.").split("."), one.value)
    return made


def _put(inside: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inside = inside.setdefault(name, {})
    inside[path[-1]] = value


def table(value: Any) -> Any:
    """By product, the engine's words: the classes of Bridge's that hold them (training/comm_overlap.py) fall away.

    What is None is no product, as ``CommOverlapConfig.setup`` has it. A path is left as it is.
    """
    if not isinstance(value, Mapping):
        return value
    return {name: _words(words) for name, words in value.items() if name != _TARGET and words is not None}


def _words(words: Mapping[str, Any]) -> dict[str, Any]:
    """``fp8_buf`` of a pipeline is a tuple by a comma too many (comm_overlap.py:52)."""
    return {key: value[0] if isinstance(value, list) else value for key, value in words.items() if key != _TARGET}


def recipe(value: Any) -> Any:
    """A RecipeConfig as the file that Megatron-LM reads would say it (core/quantization/quant_config.py)."""
    if not isinstance(value, Mapping):
        return value
    matchers = {
        f"rule_{i}": {"type": _kind(one), "pattern": one["pattern"], "config": one["config_key"], "enabled": True}
        for i, one in enumerate(value["matchers"])
    }
    return {"configs": value["config_dict"], "matchers": matchers}


def _kind(matcher: Mapping[str, Any]) -> str:
    last = str(matcher[_TARGET]).rpartition(".")[2]
    return "glob" if last == "GlobMatcher" else last
