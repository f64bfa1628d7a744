"""Megatron's command line as tables: ``python benchmarks/megatron_flags.py``.

Writes, from the installed megatron-core's own parser, launcher/meshwright/data/megatron_flags.json (which flags set a
field of its configuration objects) and megatron_arguments.json (every argument with its flags and default); a test
holds them equal.
"""

from __future__ import annotations

import json
from argparse import Action, ArgumentParser, BooleanOptionalAction
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import meshwright
from meshwright.verify.megatron_emulation import arguments_module

DATA = Path(meshwright.__file__).parent / "data"

RENAMED = {
    "fp8_param_gather": "fp8_param",
    "fp4_param_gather": "fp4_param",
    "te_precision_config_file": "quant_recipe",
    "check_for_nan_in_loss_and_grad": "check_for_nan_in_grad",
    "no_persist_layer_norm": "persist_layer_norm",
    "bias_swiglu_fusion": "bias_activation_fusion",
    "bias_gelu_fusion": "bias_activation_fusion",
    "ddp_bucket_size": "bucket_size",
}
"""Fields that core_transformer_config_from_args and get_model fill from an argument of another name."""

NEGATED = ("no_persist_layer_norm",)
"""Of these, arguments that say the opposite of their field."""

SWIGLU = {"bias_swiglu_fusion": True, "bias_gelu_fusion": False}
"""Arguments that are read only where the MLP is a SwiGLU, or only where it is none."""

IMPLIED = {"cpu_offloading_num_layers": {"cpu_offloading": True}}
"""What validate_args sets beside an argument (training/arguments.py)."""

PARSED = {"int": "int", "float": "float", "str": "str", "_parse_cuda_graph_modules_arg": "str"}


def main() -> None:
    for name, rows in (("megatron_flags.json", table()), ("megatron_arguments.json", arguments())):
        (DATA / name).write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", "utf-8")


def table() -> dict[str, dict[str, Any]]:
    """By flag: how its words are read, and the field it sets in each configuration object."""
    known = _fields()
    rows = {flag: _row(action, known) for action in _actions() for flag in action.option_strings}
    return {flag: row for flag, row in rows.items() if row["fields"] and flag.startswith("--")}


def arguments() -> dict[str, dict[str, Any]]:
    """By the argument's name: its flags, how the words behind each are read, and its value where none is given."""
    rows: dict[str, dict[str, Any]] = {}
    for action in _actions():
        flags = {flag: _read(action, flag) for flag in action.option_strings if flag.startswith("--")}
        row = rows.setdefault(action.dest, {"default": _plain(action.default), "flags": {}})
        row["flags"] |= flags
    return {name: row for name, row in rows.items() if name != "help"}


def _actions() -> list[Action]:
    return arguments_module().add_megatron_arguments(ArgumentParser(allow_abbrev=False))._actions


def _read(action: Action, flag: str) -> str:
    if isinstance(action, BooleanOptionalAction):
        return json.dumps(not flag.startswith("--no-"))
    return _reads(action)


def _plain(default: Any) -> Any:
    return default.name if isinstance(default, Enum) else default


def _fields() -> dict[str, set[str]]:
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

    kinds = (TransformerConfig, MLATransformerConfig, DistributedDataParallelConfig, OptimizerConfig)
    return {kind.__name__: {field.name for field in fields(kind)} for kind in kinds}


def _row(action: Action, known: dict[str, set[str]]) -> dict[str, Any]:
    found = {kind: action.dest for kind, names in known.items() if action.dest in names}
    new = RENAMED.get(action.dest)
    found |= {kind: new for kind, names in known.items() if new in names}
    implied = IMPLIED.get(action.dest, {})
    only = {"swiglu": SWIGLU[action.dest]} if action.dest in SWIGLU else {}
    reads = json.dumps(not action.const) if action.dest in NEGATED else _reads(action)
    return {"reads": reads, "fields": found} | ({"implies": implied} if implied else {}) | only


def _reads(action: Action) -> str:
    if action.nargs == 0:
        return json.dumps(action.const)
    kind = PARSED.get(getattr(action.type, "__name__", "str"), "python")
    return f"{kind}s" if action.nargs in ("+", "*", 3) else kind


if __name__ == "__main__":
    main()
