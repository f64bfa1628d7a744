"""Configurations of frameworks that are built on Megatron: their keys -> Megatron-LM's arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from math import prod
from typing import Any

from meshwright.errors import Problem
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Ask, Found, Given, Source, shown
from meshwright.imports.keyed import either
from meshwright.imports.known_models import known_model
from meshwright.imports.megatron import PATHS, of_arguments
from meshwright.imports.megatron_arguments import kinds, known
from meshwright.imports.megatron_yaml import argument_of
from meshwright.imports.unknown import readable
from meshwright.spec.frozen import dataclass

__all__ = ["Shape", "To", "of_shape"]


@dataclass(frozen=True)
class To:
    """The argument that a key is, and how its value reads; None: it says nothing.

    ``usual``: values that leave it at Megatron-LM's default, beside those that are off; ``beside``: those that the
    shape's ``more`` carries. Any other one that reads as nothing is not carried.
    """

    argument: str
    read: Callable[[Any], Any] = lambda value: value
    usual: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One framework. ``own``: keys that a value of ours carries directly; ``sections``: where arguments stand.

    ``more``: arguments that follow from the whole file; ``unsets``: keys that, empty, take back what others said.
    """

    kind: str
    keys: Mapping[str, To]
    reasons: Mapping[str, str]
    sections: tuple[str, ...] = ()
    own: Mapping[str, tuple[str, Callable[[Any], Any]]] = field(default_factory=dict)
    unsets: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    more: Callable[[Leaves], Mapping[str, Any]] = lambda leaves: {}
    model: str = ""  # the key that names a model, where no sizes are stated


def of_shape(leaves: Leaves, shape: Shape, world: int | None = None) -> Source:
    """What the file says, as Megatron-LM would be told."""
    resolved = {key: replace(one, value=_interpolated(key, one.value, leaves)) for key, one in leaves.items()}
    place = next(iter(leaves.values())).place
    given = {name: Given("", value, place) for name, value in shape.defaults.items()}
    lost: list[Found] = []
    for key, one in resolved.items():
        made = _argument(key, one, shape)
        if made is not None and made[1] is not None:
            lost += _again(given.get(made[0]), one)
            given[made[0]] = replace(one, value=_whole(*made))
        elif made is not None:
            lost += _again(given.pop(made[0], None), one) if key in shape.unsets else []
        elif key not in shape.own:
            lost.append(_lost(key, one, shape))
    for name, value in {**_grouped(given), **shape.more(resolved)}.items():
        given[name] = replace(given.get(name, Given("", None, place)), value=value)
    source = of_arguments(given, lost, shape.kind, world)
    own = {path: read(resolved[key].value) for key, (path, read) in shape.own.items() if key in resolved}
    carried = (_own(key, resolved[key], path) for key, (path, _) in shape.own.items() if key in resolved)
    source = _named(source, resolved, shape)
    stated = tuple(one for one in source.found if one.key)
    return replace(source, values={**source.values, **own}, found=(*stated, *carried, *_quiet(leaves, resolved, shape)))


def _named(source: Source, leaves: Leaves, shape: Shape) -> Source:
    """With the model that is named, where it is one of ours; else with one question for all of it."""
    if not shape.model or "model.layers" in source.values:
        return source
    name = str(leaves[shape.model].value) if shape.model in leaves else "the model"
    model = known_model(name)
    values = {path: value for path, value in source.values.items() if not path.startswith("model.")}
    hint = f"{readable(name)} is none of ours; give model=NAME, or model=hf model.path=DIR"
    asked = () if model else (Ask("model", Problem("model", hint, "import.missing")),)
    others = tuple(ask for ask in source.asks if not _of_model(ask.path) or ask.problem.rule == "import.value")
    found = tuple(_read_name(one, shape, bool(model)) for one in map(_beside_name, source.found))
    return replace(source, values={**values, **model}, asks=(*asked, *others), found=found)


def _read_name(one: Found, shape: Shape, read: bool) -> Found:
    """The key that names the model, where it is read."""
    return replace(one, fate="mapped", path="model", reason="") if read and one.key == shape.model else one


def _of_model(path: str) -> bool:
    return path.startswith("model.")


def _beside_name(one: Found) -> Found:
    """A size, or a kind of layer, that the named model does not take from here."""
    if not one.path or not all(map(_of_model, one.path.split())):
        return one
    return replace(one, fate="dropped", path="", reason="the model that is named is read as it is published")


def _grouped(given: Mapping[str, Given]) -> dict[str, bool]:
    """A number of key and value heads is enough everywhere but on Megatron-LM's own command line."""
    return {"group_query_attention": True} if "num_query_groups" in given else {}


def _argument(key: str, one: Given, shape: Shape) -> tuple[str, Any] | None:
    if key in shape.keys:
        row = shape.keys[key]
        try:
            return row.argument, row.read(one.value)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return row.argument, one.value
    section, _, last = key.rpartition(".")
    name = argument_of(last.replace("-", "_"))
    inside = section in shape.sections and key not in shape.reasons
    return (name, one.value) if inside and (known(name) or name in PATHS) else None


def _again(before: Given | None, by: Given) -> list[Found]:
    """A key that another one of the same meaning overrules."""
    if before is None or not before.key:
        return []
    reason = f"{by.key} says it, too, and wins"
    return [Found(before.key, shown(before.value), before.place, "dropped", reason=reason)]


def _whole(name: str, value: Any) -> Any:
    """1000000.0 where a whole number is meant."""
    return int(value) if isinstance(value, float) and kinds(name)[0] is int and value.is_integer() else value


def _lost(key: str, one: Given, shape: Shape) -> Found:
    if one.value in (None, "", [], {}):
        return Found(key, shown(one.value), one.place, "default", reason="it says nothing")
    reason = either(shape.reasons, key) or f"no key of a {shape.kind} that is known here"
    return Found(key, shown(one.value), one.place, "dropped", reason=reason)


def _own(key: str, one: Given, path: str) -> Found:
    return Found(key, shown(one.value), one.place, "mapped", path)


def _quiet(stated: Leaves, leaves: Leaves, shape: Shape) -> Iterator[Found]:
    """Keys that are known and set no argument with this value."""
    for key, one in leaves.items():
        made = _argument(key, one, shape)
        if made is not None and made[1] is None:
            open_value = one.value is None and stated[key].value is not None
            yield _unset(key, stated[key] if open_value else one, shape.keys.get(key, To(made[0])))


def _unset(key: str, one: Given, row: To) -> Found:
    """A value that is off, or as usual; one that is carried beside its argument; else one that nothing here says."""
    value = str(one.value).lower().replace("-", "_")
    kept = Found(key, shown(one.value), one.place, "default", PATHS.get(row.argument, ""))
    if value in row.beside:
        return replace(kept, fate="mapped")
    return kept if value in (*_OFF, *row.usual) else replace(kept, fate="dropped", path="", reason=_NO_SUCH)


_OFF = ("none", "false", "", "[]")
_NO_SUCH = "no value of ours says so: read as the default"


def _interpolated(key: str, value: Any, leaves: Leaves) -> Any:
    """OmegaConf's ``${.name}`` and ``${a.b}``, and NeMo's ``${multiply:4,...}``; other resolvers are None."""
    if not isinstance(value, str) or "${" not in value:
        return value
    if product := _PRODUCT.fullmatch(value):
        factors = [_factor(key, text, leaves) for text in product[1].split(",")]
        return prod(factors) if all(isinstance(factor, int) for factor in factors) else None
    match = re.fullmatch(r"\$\{(\.*)([\w.]+)\}", value)
    if not match:
        return None
    section = key.rpartition(".")[0] if match[1] else ""
    for _ in range(max(0, len(match[1]) - 1)):
        section = section.rpartition(".")[0]
    path = f"{section}.{match[2]}" if section else match[2]
    target = leaves[path].value if path in leaves else None
    return None if isinstance(target, str) and "${" in target else target


_PRODUCT = re.compile(r"\$\{multiply:([^:]+)\}")


def _factor(key: str, text: str, leaves: Leaves) -> Any:
    return int(text) if text.strip().isdigit() else _interpolated(key, text.strip(), leaves)
