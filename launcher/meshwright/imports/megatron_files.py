"""Files that Megatron's flags name beside a script: emit/megatron_files.py read backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from meshwright.errors import ConfigError
from meshwright.imports.files import text_of
from meshwright.imports.megatron_arguments import Arguments
from meshwright.model.user_buffers import KEYS, presets

__all__ = ["FILES", "modules", "overlapped", "preset"]

FILES = {
    "te_precision_config_file": "which module has which precision",
    "tp_comm_overlap_cfg": "how tensor-parallel collectives overlap",
}
"""Arguments that name one, and what it says; frameworks on Megatron have its content instead."""

_PRECISIONS = {"tensorwise": "fp8_tensorwise", "blockwise": "fp8_blockwise", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}
_SAME = ("fp8_format", "fp8_param", "fp4_param")  # as the run has it


def modules(a: Arguments) -> list[dict[str, str]] | None:
    """``quantization.modules`` of a precision file; None where it cannot be read or says what these cannot."""
    found: list[dict[str, str]] | None = _read(a, "te_precision_config_file", _rules)
    return found


def overlapped(a: Arguments) -> list[dict[str, Any]] | None:
    """``tp_overlap.products`` of a file of user buffers; None where it cannot be read or says what these cannot."""
    found: list[dict[str, Any]] | None = _read(a, "tp_comm_overlap_cfg", _products)
    return found


def preset(a: Arguments) -> str | None:
    """NVIDIA's table of user buffers that the file repeats: of equal ones, the one that is named most like the run."""
    said = {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in overlapped(a) or []}
    equal = [name for name, table in presets().items() if _named(table) == said] if said else []
    return max(equal, key=lambda name: len(_of_run(a) & set(name.split("_"))), default=None)


def _of_run(a: Arguments) -> set[str]:
    """Words of such a name: ``userbuffers_fp8_h100_h16384_tp8_cp2_mbs1_seqlen8192``."""
    sizes = {"h": "hidden_size", "tp": "tensor_model_parallel_size", "cp": "context_parallel_size"}
    sizes |= {"mbs": "micro_batch_size", "seqlen": "seq_length"}
    return {"fp8" if a("fp8") else "bf16", *(f"{word}{a(argument)}" for word, argument in sizes.items())}


def _named(table: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {KEYS[key]: value for key, value in words.items()} for name, words in table.items()}


def _read(a: Arguments, name: str, reader: Callable[[Any], Any]) -> Any:
    if not a(name):
        return []
    try:
        return reader(_content(a, name))
    except (ConfigError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        return None


def _content(a: Arguments, name: str) -> Any:
    """What stands there, or in the file that is named, which lies beside the one that names it."""
    if isinstance(a(name), Mapping):
        return a(name)
    place = a.given[name].place.file if name in a.given else ""
    return yaml.safe_load(text_of(Path(place).parent / str(a(name))))


def _rules(recipe: Mapping[str, Any]) -> list[dict[str, str]]:
    wanted = [one for one in recipe["matchers"].values() if one.get("enabled", False)]
    if any(one["type"] != "glob" for one in wanted):
        raise ValueError
    return [{"match": one["pattern"], "precision": _precision(recipe["configs"][one["config"]])} for one in wanted]


def _precision(config: Mapping[str, Any]) -> str:
    """Nothing is said of evaluation, or of recipes of one's own."""
    said = {key: value for key, value in config["training_recipe"].items() if key not in _SAME}
    if set(config) != {"transformer_engine_config_type", "training_recipe"}:
        raise ValueError
    kind = said.pop("fp8_quantization_recipe", None) or said.pop("fp4_quantization_recipe", None)
    if said:
        raise ValueError
    return "bf16" if kind is None else _PRECISIONS[kind]


def _products(table: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": name, **words} for name, words in _named(table).items()]
