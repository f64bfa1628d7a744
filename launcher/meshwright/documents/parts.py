"""Options of parts that the files in conf/ leave out (experts, a GPU's own numbers): from the fields of the Spec.

A field's comment is the text, as a key's comment is in conf/.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Collection, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from meshwright.report.page.words import literal
from meshwright.spec import Spec

__all__ = ["Part", "parts"]

DERIVED = ("model.measured", "cluster.environment")
"""What no user writes key by key."""


class Part(NamedTuple):
    """A key, the text of its default, what it may be where that is a list of words, and the comment on its field."""

    path: str
    default: str
    choices: str
    about: str


def parts(group: str, known: Collection[str]) -> Iterator[Part]:
    """Every key of a group of the Spec that is not among the ``known`` ones; none where it is no group of it."""
    kind = get_type_hints(Spec).get(group)
    if kind is not None and is_dataclass(kind):
        yield from (one for one in _within(kind, group) if one.path not in known)


def _within(kind: Any, path: str) -> Iterator[Part]:
    hints, comments = get_type_hints(kind), _comments(kind)
    for field in fields(kind):
        here, hint = f"{path}.{field.name}", hints[field.name]
        inner = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        if here in DERIVED:
            continue
        if inner is not None and get_origin(hint) in (None, Union, types.UnionType):
            yield from _within(inner, here)
        else:
            yield Part(here, _default(field), _choices(hint), comments.get(field.name, ""))


def _comments(kind: type) -> dict[str, str]:
    """What stands behind each field in the source, as a sentence; a configuration's word for None is null."""
    found = re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", inspect.getsource(kind), re.MULTILINE)
    return {name: f"{text[0].upper()}{text[1:]}.".replace("None:", "null:") for name, text in found}


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return literal(field.default)
    return "???" if field.default_factory is MISSING else literal(field.default_factory())  # as Hydra writes it


def _choices(hint: Any) -> str:
    return ", ".join(map(str, get_args(hint))) if get_origin(hint) is Literal else ""
