"""Fields of Megatron-Bridge's configuration classes: ``python benchmarks/bridge_fields.py FOLDER``.

Writes launcher/meshwright/data/bridge_fields.json from the source, which is parsed and not imported (``pip install
--no-deps --target FOLDER megatron-bridge``); fields of the classes that Bridge's extend come from the installed
megatron-core.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import meshwright

DATA = Path(meshwright.__file__).parent / "data"

SOURCES = {
    "training/config.py": {
        "ConfigContainer": (),
        "CheckpointConfig": ("megatron.training.config.CheckpointConfig",),
        "DistributedDataParallelConfig": ("megatron.core.distributed.DistributedDataParallelConfig",),
        "DistributedInitConfig": ("megatron.training.config.DistributedInitConfig",),
        "GPTDatasetConfig": ("megatron.core.datasets.gpt_dataset.GPTDatasetConfig",),
        "LoggerConfig": ("megatron.training.config.LoggerConfig",),
        "OptimizerConfig": ("megatron.core.optimizer.OptimizerConfig",),
        "SchedulerConfig": ("megatron.training.config.SchedulerConfig",),
        "TrainingConfig": ("megatron.training.config.TrainingConfig",),
    },
    "training/tokenizers/config.py": {"TokenizerConfig": ("megatron.training.config.TokenizerConfig",)},
    "models/gpt_provider.py": {"GPTModelProvider": ("megatron.core.transformer.transformer_config.TransformerConfig",)},
    "data/base.py": {"DataloaderConfig": ()},
}


def main(folder: Path) -> None:
    added: dict[str, list[str]] = {}
    known: dict[str, list[str]] = {}
    for source, classes in SOURCES.items():
        stated = _stated(folder / "megatron" / "bridge" / source)
        for name, bases in classes.items():
            inherited = {field for base in bases for field in _fields(base)}
            known[name] = sorted(inherited | set(stated[name]))
            added[name] = sorted(set(stated[name]) - inherited)
    for name in ("GPTDatasetConfig", "MockGPTDatasetConfig"):
        known[name] = sorted({*known["GPTDatasetConfig"], *known["DataloaderConfig"]})
    for name in ("ValidationConfig", "RNGConfig"):
        known[name], added[name] = sorted(_fields(f"megatron.training.config.{name}")), []
    version = re.search(r"megatron_bridge-([\d.]+)\.dist-info", " ".join(path.name for path in folder.iterdir()))
    table = {"version": version[1] if version else "unknown", "classes": known, "added": added}
    (DATA / "bridge_fields.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", "utf-8")


def _stated(path: Path) -> dict[str, list[str]]:
    """Annotated fields of each class in a file."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return {
        node.name: [
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        for node in classes
    }


def _fields(target: str) -> list[str]:
    module, _, name = target.rpartition(".")
    return [field.name for field in fields(getattr(import_module(module), name))]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
