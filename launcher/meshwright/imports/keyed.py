"""Configurations whose keys are carried one by one: a table says which of ours, the rest is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meshwright.imports.asks import left_open, open_ask
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Ask, Found, shown
from meshwright.imports.unknown import is_known, readable
from meshwright.spec.frozen import dataclass

__all__ = ["Row", "carried", "either", "fates", "opened"]


@dataclass(frozen=True)
class Row:
    """The key of ours that carries one of theirs, and how its value reads (None: it says nothing)."""

    path: str
    read: Callable[[Any], Any] = lambda value: value


def carried(leaves: Leaves, rows: Mapping[str, Row]) -> dict[str, Any]:
    """Our values of the keys in the table; a value that cannot be read stays as it is, for the decoder to name."""
    values: dict[str, Any] = {}
    for key, one in leaves.items():
        if key in rows and one.value not in (None, "auto") and is_known(one.value):
            value = _read(rows[key], one.value)
            values |= {} if value is None else {rows[key].path: value}
    return values


def opened(leaves: Leaves, rows: Mapping[str, Row]) -> Iterator[Ask]:
    """The keys in the table whose values only the outside knows."""
    return (open_ask(rows[key].path, one) for key, one in leaves.items() if key in rows and not is_known(one.value))


def _read(row: Row, value: Any) -> Any:
    try:
        return row.read(value)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return value


def fates(
    leaves: Leaves, rows: Mapping[str, Row], reasons: Mapping[str, str], passed: Callable[[str], str], whose: str
) -> Iterator[Found]:
    """The fate of every key. ``reasons``: by key or section, why it is not carried; ``passed``: where it goes."""
    for key, one in leaves.items():
        known = Found(key, shown(one.value), one.place, "mapped")
        if key in rows and not is_known(one.value):
            yield Found(key, readable(known.value), one.place, "dropped", rows[key].path, left_open(one))
        elif key in rows:
            yield Found(key, known.value, one.place, "mapped", rows[key].path)
        elif reason := either(reasons, key):
            yield Found(key, known.value, one.place, "dropped", reason=reason)
        elif path := passed(key):
            yield Found(key, known.value, one.place, "passed", path)
        else:
            yield Found(key, known.value, one.place, "dropped", reason=f"no key of {whose} that is known here")


def either(table: Mapping[str, str], key: str) -> str | None:
    """The entry of a key, or of a section that holds it."""
    while key:
        if key in table:
            return table[key]
        key = key.rpartition(".")[0]
    return None
