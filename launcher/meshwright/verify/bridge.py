"""Megatron-Bridge: every key is a field of its classes, and Megatron-core's own YAML code makes objects of it.

megatron-bridge needs another transformers than the rest, so that it cannot be imported beside it. Its classes extend
Megatron-core's; what it adds is a table (data/bridge_fields.json), read from its source by benchmarks/bridge_fields.py.
"""

from __future__ import annotations

import json
from importlib.resources import files as resources
from importlib.util import find_spec
from typing import Any

from meshwright.emit.bridge import container
from meshwright.layout.plan import Plan
from meshwright.verify import megatron as of_core
from meshwright.verify.megatron_emulation import emulate_gpu, substitutions
from meshwright.verify.said import said
from meshwright.verify.verdict import Check

__all__ = ["CHECKS", "check", "fields", "versions", "warm"]

CHECKS = ("fields", "made")

BASES = {
    "model": "megatron.core.transformer.transformer_config.TransformerConfig",
    "train": "megatron.training.config.TrainingConfig",
    "validation": "megatron.training.config.ValidationConfig",
    "optimizer": "megatron.core.optimizer.OptimizerConfig",
    "scheduler": "megatron.training.config.SchedulerConfig",
    "ddp": "megatron.core.distributed.DistributedDataParallelConfig",
    "dist": "megatron.training.config.DistributedInitConfig",
    "tokenizer": "megatron.training.config.TokenizerConfig",
    "checkpoint": "megatron.training.config.CheckpointConfig",
    "logger": "megatron.training.config.LoggerConfig",
    "rng": "megatron.training.config.RNGConfig",
}
"""Of each part of the container, the class of Megatron-core that Bridge's extends."""


def warm() -> None:
    """Import what the checks need, once, before forking."""
    of_core.warm()
    import megatron.training.config.instantiate_utils  # noqa: F401


def versions() -> dict[str, str]:
    """Of what judges, and of the classes whose fields are known."""
    return {**of_core.versions(), "megatron-bridge": str(_table()["version"])}


def check(item: tuple[str, Plan]) -> Check:
    """One check of one plan. Run it in a fork."""
    name, plan = item
    return fields(container(plan)) if name == "fields" else _made(plan)


def fields(values: dict[str, Any]) -> Check:
    """Whether every part of the container, and every key of a part, is a field of Bridge's classes."""
    known = _table()["classes"]
    parts = {part["_target_"].rpartition(".")[2]: part for part in values.values() if isinstance(part, dict)}
    stated = {"ConfigContainer": values, **parts}
    unknown = [
        f"{kind} has no {key}" for kind, part in stated.items() for key in part if key not in (*known[kind], "_target_")
    ]
    count = sum(len(part) - 1 for part in stated.values())
    return Check("fields", not unknown, "; ".join(unknown) or f"{count} keys are fields of {len(stated)} classes")


def _made(plan: Plan) -> Check:
    """Each part that extends a class of Megatron-core, made by Megatron's own reader of such YAML."""
    from megatron.training.config.instantiate_utils import instantiate

    emulate_gpu(plan)
    values, bases = container(plan), _bases(plan)
    pretended = (*substitutions(plan), *(f"{name} not made: {_ADAM}" for name in BASES if name not in bases))
    try:
        for name, base in bases.items():
            own = set(_table()["added"][values[name]["_target_"].rpartition(".")[2]])
            part = {key: value for key, value in values[name].items() if key not in own}
            instantiate({**part, "_target_": base})
    except Exception as error:
        return Check("made", False, said(error), pretended)
    details = f"{len(bases)} objects of Megatron-core, of what it knows of each part"
    return Check("made", True, details, pretended)


_ADAM = "it looks for Transformer Engine's Adam, which keeps its states in fewer bits (optimizer_config.py:447)"


def _bases(plan: Plan) -> dict[str, str]:
    """Those of BASES that this machine can make."""
    unmade = plan.spec.backend.megatron.precision_aware_optimizer and find_spec("transformer_engine") is None
    return {name: base for name, base in BASES.items() if not (unmade and name == "optimizer")}


def _table() -> dict[str, Any]:
    text = resources("meshwright").joinpath("data", "bridge_fields.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    return table
