"""Megatron-LM's arguments by their names, as its own parser would hold them (data/megatron_arguments.json).

The table is megatron-core 0.19.2's; what earlier versions called otherwise is translated, with what it meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from meshwright.imports.asks import left_open
from meshwright.imports.former_flags import FORMER, GONE
from meshwright.imports.found import Found, Given, Place, shown
from meshwright.imports.literal import literal
from meshwright.imports.unknown import is_bare, is_known, is_optional, names, readable

__all__ = ["Arguments", "Word", "default", "flags_of", "kinds", "known", "of_words"]

Word = tuple[str, Place]
"""One word of a command line and where it was written."""


class Arguments:
    """Values by argument name: as given, else Megatron's default. ``given`` holds nothing that is left open."""

    def __init__(self, given: Mapping[str, Given], world: int | None = None, opened: Collection[str] = ()) -> None:
        """Take the typed values that the source states, the ranks where they are known, and names that are open."""
        self.given, self.world, self.opened = given, world, opened

    def says(self, name: str) -> bool:
        """Whether the source names it, be its value known or open."""
        return name in self.given or name in self.opened

    def __call__(self, name: str) -> Any:
        """The value that Megatron's parser would hold."""
        return self.given[name].value if name in self.given else default(name)


def known(name: str) -> bool:
    """Whether megatron-core 0.19.2 has an argument of this name."""
    return name in _table()


def default(name: str) -> Any:
    """What Megatron takes where nothing is said; None for what a log alone holds."""
    return _table()[name]["default"] if name in _table() else None


def kinds(name: str) -> tuple[type | None, bool]:
    """The type of an argument's value, and whether there may be several; None: anything."""
    reads = next(iter(_table()[name]["flags"].values()), "python") if known(name) else "python"
    single = {"int": int, "float": float, "str": str, "python": None}
    if reads in ("true", "false"):
        return bool, False
    return single.get(reads.removesuffix("s")), reads.endswith("s")


def of_words(words: Sequence[Word]) -> tuple[dict[str, Given], list[Found], list[Given]]:
    """The arguments that ``words`` set, the last one of a name winning; what no argument came of; what is left open.

    An open word that no flag takes is none where nobody sets its variable, else it may be any arguments.
    """
    given: dict[str, Given] = {}
    lost: list[Found] = []
    loose: list[Given] = []
    for flag, values, place in _grouped(words):
        if not flag and all(map(is_bare, values)):
            waits = [Given(readable(word), word, place) for word in values]
            loose += [one for one in waits if not all(map(is_optional, names(one.value)))]
            lost += [Found(one.key, "", place, "dropped", reason=left_open(one)) for one in waits]
            continue
        name, value = _argument(flag, values)
        if name is None:
            lost.append(Found(flag, shown(readable(_said(values))), place, "dropped", reason=value))
            continue
        if name in given:
            again = f"given again at {place}, which wins"
            before = given[name]
            lost.append(Found(before.key, shown(readable(_said(before.value))), before.place, "dropped", reason=again))
        given[name] = Given(flag, value, place)
    return given, lost, loose


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def flags_of(name: str, value: Any) -> list[str]:
    """The words that set an argument, for what is passed through; none where no flag says this value."""
    for flag, reads in _table()[name]["flags"].items():
        if reads in ("true", "false") or reads[0] in '{["':
            if json.loads(reads) == value:
                return [flag]
        elif value is not None:
            return [flag, *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
    return []


def _grouped(words: Sequence[Word]) -> Iterator[tuple[str, list[str], Place]]:
    """Each flag with the words behind it; ``--flag=value`` is one word of both."""
    flag, place = "", Place("")
    values: list[str] = []
    for word, where in words:
        if word.startswith("--"):
            if flag or values:
                yield flag, values, place
            name, equals, value = word.partition("=")
            flag, values, place = name, [value] if equals else [], where
        elif is_bare(word) and len(values) >= _most(flag):
            if flag or values:
                yield flag, values, place
            yield "", [word], where
            flag, values = "", []
        else:
            place = place if flag or values else where
            values.append(word)
    if flag or values:
        yield flag, values, place


def _most(flag: str) -> int:
    """How many words a flag takes."""
    if flag in FORMER:
        return int(isinstance(FORMER[flag][1], type))
    reads = _flags()[flag][1] if flag in _flags() else ""
    if reads in ("true", "false") or reads[:1] in ("{", "[", '"'):
        return 0
    several = reads.endswith("s") or (flag and not reads)
    return MANY if several else int(bool(flag))


MANY = 10_000


def _argument(flag: str, values: list[str]) -> tuple[str | None, Any]:
    """The argument's name and typed value, or None and why there is none."""
    if flag in FORMER:
        name, value = FORMER[flag]
        return name, _typed(values, value.__name__) if isinstance(value, type) else value
    if flag not in _flags():
        return None, GONE.get(flag, "megatron-core 0.19.2 has no such flag" if flag else "a word without a flag")
    name, reads = _flags()[flag]
    return name, _typed(values, reads)


def _typed(values: list[str], reads: str) -> Any:
    """As Megatron's parser reads them. What is left open, or would be refused, stays text."""
    single: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "python": _python}
    try:
        if not all(map(is_known, values)):
            return " ".join(values)
        if reads in single:
            return single[reads](values[0])
        if reads.removesuffix("s") in single:
            return [single[reads.removesuffix("s")](word) for word in values]
    except (ValueError, IndexError):
        return " ".join(values)
    return json.loads(reads)


def _python(word: str) -> Any:
    """A number or the text of an expression: lists are Megatron's to evaluate, ours to read (``literal``)."""
    try:
        return literal(word)
    except ValueError:
        return word


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = files("meshwright").joinpath("data/megatron_arguments.json").read_text("utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table


@cache
def _flags() -> dict[str, tuple[str, str]]:
    """By flag: the argument's name, and how the words are read."""
    rows = _table().items()
    by_flag = {flag: (name, reads) for name, row in rows for flag, reads in row["flags"].items()}
    return by_flag
