"""Turn a plain mapping into frozen dataclasses, or say everything that is wrong with it, a line a problem."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from itertools import islice
from math import isfinite
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from meshwright.errors import ConfigError, Problem

__all__ = ["decode", "elsewhere", "join", "places"]

_SHOWN_PLACES = 3
LARGEST: Mapping[Any, float] = {int: 2**63, float: 1e30}
"""Whatever is counted or measured here is far smaller, and products of a few such numbers stay finite."""


def decode[T](cls: type[T], data: object, root: str = "") -> T:
    """Build the dataclass ``cls`` from plain ``data`` (mappings, lists, scalars).

    Raises:
        ConfigError: with one problem for each unknown key, missing key and value of a wrong type.

    """
    problems: list[Problem] = []
    value = _dataclass(cls, data, root, problems)
    if problems:
        raise ConfigError(problems)
    return value  # type: ignore[no-any-return]


def places(cls: Any, name: str, root: str = "") -> Iterator[str]:
    """The dotted paths below the dataclass ``cls`` whose last part is ``name``."""
    for field, hint in _hints(cls).items():
        inner = next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
        if field == name:
            yield join(root, field)
        if inner is not None and get_origin(hint) in (None, Union, types.UnionType):
            yield from places(inner, name, join(root, field))


def elsewhere(found: Iterable[str]) -> str:
    """A hint at the first few of those paths; empty where there is none."""
    shown = list(islice(found, _SHOWN_PLACES))
    return f"did you mean {' or '.join(shown)}?" if shown else ""


def join(path: str, key: object) -> str:
    """The dotted path of ``key`` under ``path``."""
    return f"{path}.{key}" if path else str(key)


def _dataclass(cls: Any, data: object, path: str, problems: list[Problem]) -> Any:
    if not isinstance(data, Mapping):
        problems.append(Problem(path, f"expected a mapping, got {data!r}"))
        return None
    known, hints = _known(cls), _hints(cls)
    problems += _unknown_keys(data, cls, path)
    before, values = len(problems), {}
    for name, field in known.items():
        if name in data and data[name] != "???":
            values[name] = _value(hints[name], data[name], join(path, name), problems)
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(Problem(join(path, name), "not set; give it a value"))
    return cls(**values) if len(problems) == before else None


@cache
def _known(cls: Any) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(cls)}


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _unknown_keys(data: Mapping[Any, Any], cls: Any, path: str) -> Iterator[Problem]:
    known = _known(cls)
    for key in data:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            near = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            yield Problem(join(path, key), f"unknown key; {elsewhere(places(cls, str(key), path)) or near}")


def _value(hint: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _dataclass(hint, value, path, problems)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        first, *others = (a for a in args if a is not type(None))
        word = isinstance(value, str) and any(value in get_args(other) for other in others)
        return value if word else _value(first, value, path, problems)
    if origin is tuple:
        return _sequence(args[0], value, path, problems)
    if origin is not None and origin is not Literal and issubclass(origin, Mapping):
        return _mapping(args[1], value, path, problems)
    return _scalar(hint, args if origin is Literal else None, value, path, problems)


def _sequence(hint: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        listed = "[]" if value is None else f"[{value}]"
        problems.append(
            Problem(path, f"expected a list, got {'null' if value is None else repr(value)}; write {listed}")
        )
        return ()
    return tuple(_value(hint, item, f"{path}[{i}]", problems) for i, item in enumerate(value))


def _mapping(hint: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, Mapping):
        quoted = f"'{path}={{a:1,b:2}}'"
        problems.append(Problem(path, f"expected a mapping, got {value!r}; write {quoted} with its quotes"))
        return {}
    return {str(key): _value(hint, item, join(path, key), problems) for key, item in value.items()}


def _scalar(hint: Any, choices: tuple[Any, ...] | None, value: Any, path: str, problems: list[Problem]) -> Any:
    if choices is not None:
        if type(value) is not type(choices[0]) or value not in choices:
            close = get_close_matches(str(value), map(str, choices), n=1)
            hint_text = f"; did you mean {close[0]}?" if close else ""
            problems.append(Problem(path, f"expected one of {', '.join(map(str, choices))}, got {value!r}{hint_text}"))
        return value
    if hint in LARGEST and type(value) in LARGEST and not abs(value) < LARGEST[hint]:
        problems.append(Problem(path, _no_size(value, LARGEST[hint])))
        return value
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)  # 15.6e12 tokens: YAML has no integers in scientific notation
    if hint is not object and type(value) is not hint:
        problems.append(Problem(path, _wrong_type(hint, value)))
    return value


def _no_size(value: float, limit: float) -> str:
    """What is wrong with a number beyond all sizes; one of thousands of digits is not printed."""
    if isinstance(value, float) and not isfinite(value):
        return f"expected a finite number, got {value!r}"
    shown = f"{value:g}" if isinstance(value, float) else f"one of {value.bit_length()} bits"
    return f"expected a number below {limit:.2g}, got {shown}"


def _wrong_type(hint: type, value: Any) -> str:
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, hint.__name__)
    quote = "; quote it, YAML read it as something else" if hint is str else ""
    typed = f""" (on the command line '"{value}"')""" if quote and isinstance(value, int | float) else ""
    return f"expected {expected}, got {value!r}{quote}{typed}"
