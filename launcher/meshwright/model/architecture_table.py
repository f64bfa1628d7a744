"""The architectures of transformers that a Model can be written to and read from: data/architectures/*.yaml.

An entry says which key of config.json carries which field of Model (``fields``: the key alone where it must be there),
which of the Parts in ``architecture_parts`` it has, what its code always does (``implied``), which keys must hold one
value (``required``), which parts of a model it can do without (``optional``), and what DeepSpeed makes of it.
``like: other`` starts from another entry; null takes out what that one has. Values such as "= hidden // heads" are
formulas of ``architectures``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from meshwright.model.architecture_parts import PARTS, VALUES
from meshwright.model.architectures import Architecture, Part, formula, key
from meshwright.spec.model import Model

__all__ = ["ARCHITECTURES", "architecture_of"]

_FOLDER = Path(str(files("meshwright").joinpath("data/architectures")))
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Table(Mapping[str, Architecture]):
    """Entries by their model_type, each read when it is asked for: a plan needs one of them."""

    def __getitem__(self, model_type: str) -> Architecture:
        return _architecture(model_type)

    def __contains__(self, model_type: object) -> bool:
        return model_type in _names()

    def __iter__(self) -> Iterator[str]:
        return iter(_names())

    def __len__(self) -> int:
        return len(_names())


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


@cache
def _architecture(model_type: str) -> Architecture:
    if model_type not in _names():
        raise KeyError(model_type)
    entry = _entry(model_type)
    fields = (_field(path, spec) for path, specs in entry["fields"].items() for spec in _several(specs))
    parts = (PARTS[name](**options) for name, options in entry["parts"].items())
    return Architecture(
        model_type=model_type,
        name=entry["class"],
        parts=(*fields, *parts),
        implied={path: formula(value) for path, value in entry["implied"].items()},
        required={path: formula(value) for path, value in entry["required"].items()},
        ignored=tuple(entry["ignored"]),
        former=entry["former"],
        optional=tuple(entry["optional"]),
        **entry["deepspeed"],
    )


@cache
def _entry(name: str) -> dict[str, Any]:
    """An entry on top of the one it is ``like``: mappings key by key (null removes), lists one after the other."""
    stated = yaml.load((_FOLDER / f"{name}.yaml").read_text("utf-8"), _LOADER)
    base = _entry(stated["like"]) if "like" in stated else _EMPTY
    merged = {part: {**base[part], **stated.get(part, {})} for part in _MAPPINGS}
    merged |= {part: {k: v for k, v in merged[part].items() if v is not None} for part in _MAPPINGS}
    ignored = [*base["ignored"], *stated.get("ignored", ())]
    return {"class": stated["class"], "ignored": ignored, "optional": stated.get("optional", ()), **merged}


_MAPPINGS = ("fields", "parts", "implied", "required", "former", "deepspeed")
_EMPTY: dict[str, Any] = {"ignored": [], **{part: {} for part in _MAPPINGS}}


def _several(specs: Any) -> list[Any]:
    return specs if isinstance(specs, list) else [specs]


def _field(path: str, spec: str | dict[str, Any]) -> Part:
    """``spec``: a key that must be there, or a key with a default, the names of its values, and its older names."""
    if isinstance(spec, str):
        return key(path, spec)
    values = spec.get("values")
    write, read = VALUES[values] if isinstance(values, str) else (values, values and {v: k for k, v in values.items()})
    return key(path, spec["key"], formula(spec.get("default", ...)), write, read, tuple(spec.get("former", ())))


ARCHITECTURES: Mapping[str, Architecture] = _Table()


def architecture_of(model: Model) -> Architecture:
    """What transformers has for ``model``. DeepSpeed cuts no model that was only looked at.

    Raises:
        KeyError: where it names no architecture of the table.

    """
    seen = model.measured
    if seen is None:
        return ARCHITECTURES[str(model.transformers)]
    return Architecture(
        str(model.transformers), seen.cls, (), sdpa=seen.sdpa, flash=seen.flash, autotp=False, ulysses=False
    )
