"""What transformers' configurations call things: ``python benchmarks/transformers_configs.py``.

Writes launcher/meshwright/data/transformers.json from the installed transformers, for every causal language model of
its own mapping: the model's class, the synonyms of keys (``PretrainedConfig.attribute_map``), and the keys that are on
unless a file says otherwise. A test holds the two equal.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import meshwright

TARGET = Path(meshwright.__file__).parent / "data" / "transformers.json"


def main() -> None:
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in table().items())
    TARGET.write_text(f"{{\n{rows}\n}}\n", "utf-8")


def table() -> dict[str, dict[str, Any]]:
    """By model_type: the class, synonyms (theirs to the name that is written), and what is on by default."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    return {kind: {"class": _class(CLASSES[kind]), **_row(CONFIG_MAPPING[kind])} for kind in sorted(CLASSES)}


def _class(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else names[0]


def _row(config: type[Any]) -> dict[str, Any]:
    on = sorted(field.name for field in fields(config) if isinstance(field.default, bool) and field.default)
    return {"synonyms": dict(config.attribute_map), "on": on}


if __name__ == "__main__":
    main()
