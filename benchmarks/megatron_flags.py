"""Which flags of Megatron's set a field of its configuration objects: ``python benchmarks/megatron_flags.py``.

Writes launcher/meshwright/data/megatron_flags.json from the installed megatron-core's own parser; a test holds the two
equal.
"""

from __future__ import annotations

import json
from argparse import Action, ArgumentParser
from dataclasses import fields
from pathlib import Path
from typing import Any

import meshwright
from meshwright.verify.megatron_emulation import arguments_module

TARGET = Path(meshwright.__file__).parent / "data" / "megatron_flags.json"

RENAMED = {"fp8_param_gather": "fp8_param", "fp4_param_gather": "fp4_param"}
"""Fields of TransformerConfig that core_transformer_config_from_args fills from an argument of another name."""

IMPLIED = {"cpu_offloading_num_layers": {"cpu_offloading": True}}
"""What validate_args sets beside an argument (training/arguments.py)."""

PARSED = {"int": "int", "float": "float", "str": "str", "_parse_cuda_graph_modules_arg": "str"}


def main() -> None:
    TARGET.write_text(json.dumps(table(), indent=1, sort_keys=True) + "\n", "utf-8")


def table() -> dict[str, dict[str, Any]]:
    """By flag: how its words are read, and the field it sets in each configuration object."""
    parser = arguments_module().add_megatron_arguments(ArgumentParser(allow_abbrev=False))
    known = _fields()
    rows = {flag: _row(action, known) for action in parser._actions for flag in action.option_strings}
    return {flag: row for flag, row in rows.items() if row["fields"] and flag.startswith("--")}


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
    return {"reads": _reads(action), "fields": found} | ({"implies": implied} if implied else {})


def _reads(action: Action) -> str:
    if action.nargs == 0:
        return json.dumps(action.const)
    kind = PARSED.get(getattr(action.type, "__name__", "str"), "python")
    return f"{kind}s" if action.nargs == "+" else kind


if __name__ == "__main__":
    main()
