"""An import -> the Run it describes, with the words of the command line above it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshwright.compose import GROUPS, Run
from meshwright.compose import load as composed
from meshwright.errors import ConfigError, distinct
from meshwright.imports.asks import problems
from meshwright.imports.found import Ask, Imported, answers
from meshwright.model.huggingface import nested

__all__ = ["described", "groups", "open_asks", "stated"]


def described(imported: Imported, words: Sequence[str] = (), config_dir: str | Path | None = None) -> Run:
    """The Run of the imported values: group defaults < the files < ``words``.

    Raises:
        ConfigError: with what the files leave open and no word answers, or what is wrong with the values.

    """
    asks = list(open_asks(imported, words))
    if asks:
        raise ConfigError(distinct(problems(asks, imported.choices)))
    values = stated(imported, words)
    return composed([*groups(imported, words), *words], config_dir, stated=values)


def groups(imported: Imported, words: Sequence[str]) -> list[str]:
    """The options that no word chooses: an empty model, and for Megatron-LM a node that has what its defaults need."""
    chosen = {word.partition("=")[0] for word in words}
    own = {"model": "_base"} if "model" in stated(imported, words) else {}
    own |= {"software": "ngc"} if imported.values.get("backend.name") == "megatron" else {}
    return [f"{group}={option}" for group, option in own.items() if group not in chosen]


def open_asks(imported: Imported, words: Sequence[str]) -> Iterator[Ask]:
    """What no word answers: neither its key nor the choice of its group."""
    said = [word.partition("=")[0].lstrip("+") for word in words]
    for ask in imported.asks:
        path = ask.path
        if not any(path == one or path.startswith(f"{one}.") or answers(one, path) for one in said):
            yield ask


def stated(imported: Imported, words: Sequence[str]) -> dict[str, Any]:
    """The imported values, nested, but for the groups that a word chooses, and how many GPUs where a word says it."""
    chosen = {word.partition("=")[0] for word in words} & (set(GROUPS) - {"cluster", "launch"})
    values = {path: value for path, value in imported.values.items() if path.split(".")[0] not in chosen}
    if {word.partition("=")[0] for word in words} & {"cluster.gpus", "cluster.nodes", "parallelism.dp"}:
        values = {path: value for path, value in values.items() if path not in ("cluster.gpus", "cluster.nodes")}
    if not values.keys() & {"model.layers", "model.path"}:
        values = {path: value for path, value in values.items() if not path.startswith("model.")}
    return nested(_named(values, imported))


def _named(values: Mapping[str, Any], imported: Imported) -> dict[str, Any]:
    """The run and its model carry the file's name where it says none."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(imported.files[0]).stem).strip("._-") or "imported"
    own = {"name": name}
    if any(path.startswith("model.") for path in values):
        own["model.name"] = name
    return {**own, **values}
