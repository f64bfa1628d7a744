"""``program.json`` and ``config.json`` beside a DeepSpeed configuration: the rest of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.found import Found, Source, shown
from meshwright.model.huggingface import read

__all__ = ["of_model", "of_program"]

_PLAIN = {
    "seed": "training.seed",
    "sequence": "training.sequence",
    "steps": "training.steps",
    "tp": "parallelism.tp",
    "cp": "parallelism.cp",
    "ramp": "training.ramp",
    "attention": "backend.deepspeed.attention",
    "recompute": "parallelism.recompute",
}


def of_program(leaves: Leaves) -> Source:
    """What our program on the nodes is told beside DeepSpeed's JSON (emit/deepspeed.py ``program``)."""
    paths = {key: path for key in leaves if (path := _path(key))}
    values = {path: leaves[key].value for key, path in paths.items()}
    values["parallelism.recompute"] = "full" if values.get("parallelism.recompute") else "none"
    also = "DeepSpeed's own configuration says it, too"
    lost = {"name": "the run's name", "dp": "derived from the GPUs", "zenflow": also, "compile": also}
    return Source(
        kind="program of a DeepSpeed run folder",
        values=values,
        found=tuple(
            Found(key, shown(one.value), one.place, "mapped", paths[key])
            if key in paths
            else Found(key, shown(one.value), one.place, "dropped", reason=lost.get(key, "derived from the rest"))
            for key, one in leaves.items()
        ),
    )


def _path(key: str) -> str:
    if key == "schedule.lr":
        return "training.optimizer.lr"
    if key.startswith("watchdog."):
        return f"launch.{key}"
    if key.startswith("tiling."):
        return f"backend.deepspeed.{key}"
    return (
        f"training.{key}" if key.startswith(("schedule.", "data.", "logging.", "evaluation.")) else _PLAIN.get(key, "")
    )


def of_model(path: Path, leaves: Leaves) -> Source:
    """A Hugging Face config.json.

    Raises:
        ConfigError: where a key of it has no counterpart.

    """
    values = dict(_flat(read(path), "model"))
    found = (Found(key, shown(one.value), one.place, "mapped", "model") for key, one in leaves.items())
    return Source(kind="model of Hugging Face transformers", values=values, found=tuple(found))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}")
    else:
        yield path, value
