"""Model -> the config.json from which transformers builds the same model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.model.architecture_table import ARCHITECTURES
from meshwright.model.architectures import UNWRITTEN, Architecture, Flat, flatten, resolved
from meshwright.spec.model import Model

__all__ = ["config", "mismatches"]


def config(model: Model) -> dict[str, Any]:
    """The whole config.json.

    Raises:
        ConfigError: where ``model.transformers`` names no architecture, or one that computes something else.

    """
    if model.measured is not None:
        read: dict[str, Any] = json.loads(model.measured.config)
        return read
    problems = mismatches(model)
    if problems:
        raise ConfigError(problems)
    architecture, flat = ARCHITECTURES[str(model.transformers)], flatten(model)
    carried: dict[str, Any] = {}
    for part in architecture.parts:
        carried |= part.write(flat)
    head = {"architectures": [architecture.name], "model_type": architecture.model_type}
    required = {name: resolved(value, flat) for name, value in architecture.required.items()}
    return {**head, **carried, **required, **_UNUSED}


_UNUSED = {"pad_token_id": None, "use_cache": False}
"""Samples are packed: no token is padding, whose row of the embedding would have no gradient (torch.nn.Embedding)."""


def mismatches(model: Model) -> list[Problem]:
    """In what the architecture that the model names differs from the model; empty when it is the same."""
    if model.measured is not None:
        return []
    if model.transformers is None or model.transformers not in ARCHITECTURES:
        return [Problem("model.transformers", _unknown(model.transformers), "transformers.architecture")]
    architecture = ARCHITECTURES[model.transformers]
    return list(_mismatches(architecture, flatten(model)))


_ASIDE = ("moe.", "mla.", "indexer.", "delta_net.", "mamba.", "short_convolution.", "multipliers.")
"""Beginnings of the paths of what a model may have none of."""


def _mismatches(architecture: Architecture, flat: Flat) -> Iterator[Problem]:
    for part in sorted({path.partition(".")[0] for path in architecture.carried if path.startswith(_ASIDE)}):
        if part in flat and part not in architecture.optional:
            yield _problem(part, f"{architecture.model_type} of transformers is not made without {part}")
            return
    for path, value in flat.items():
        if path in architecture.carried or path in UNWRITTEN or _scaling(path, architecture):
            continue
        fixed = architecture.fixed(path, flat)
        if value != fixed:
            yield _problem(path, f"{architecture.model_type} of transformers has {fixed!r} here, not {value!r}")
    yield from _unwritable(architecture, flat)


def _unwritable(architecture: Architecture, flat: Flat) -> Iterator[Problem]:
    """Values of carried fields that the architecture has no word for."""
    for part in architecture.parts:
        try:
            part.write(flat)
        except KeyError as error:
            yield _problem(part.paths[0], f"{architecture.model_type} of transformers has no {error.args[0]!r}")


def _scaling(path: str, architecture: Architecture) -> bool:
    return path.startswith("rope.scaling") and "rope.scaling" in architecture.carried


def _problem(path: str, message: str) -> Problem:
    return Problem(f"model.{path}", message, "transformers.architecture")


def _unknown(name: str | None) -> str:
    if name is None:
        return "not set: transformers has no such architecture, and DeepSpeed trains its models"
    close = get_close_matches(name, ARCHITECTURES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(ARCHITECTURES))}"
    return f"{name!r} is no model_type we know; {hint}"
