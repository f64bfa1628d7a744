"""What a word or a variable holds: pieces of text, each with the place where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from meshwright.imports.found import Place
from meshwright.imports.unknown import mark

__all__ = ["Value", "cut", "fields", "joined", "of_text", "place", "said", "separated", "unknown"]

Value = tuple[tuple[str, Place], ...]


def said(value: Value) -> str:
    """The whole text."""
    return "".join(piece for piece, _ in value)


def place(value: Value, other: Place) -> Place:
    """Where it was written, or ``other`` where it is empty."""
    return next((where for piece, where in value if piece), other)


def of_text(text: str, where: Place) -> Value:
    """A text of one or more lines, line by line."""
    lines = text.splitlines(keepends=True)
    return tuple((line, Place(where.file, where.line + number)) for number, line in enumerate(lines))


def unknown(where: Place, *names: str) -> Value:
    """The value that ``names`` would have."""
    return ((mark(*names), where),)


def fields(value: Value) -> list[Value]:
    """The words of an unquoted expansion: cut at white space."""
    characters = [(one, where) for piece, where in value for one in _runs(piece)]
    groups = groupby(characters, key=lambda one: one[0].isspace())
    return [tuple(group) for blank, group in groups if not blank]


def _runs(piece: str) -> Iterable[str]:
    """White space and the words between it, in order; what is unknown holds no white space."""
    return ("".join(run) for _, run in groupby(piece, key=str.isspace))


def joined(values: Sequence[Value]) -> Value:
    """The values with a space between them."""
    pieces: list[tuple[str, Place]] = []
    for value in values:
        if pieces:
            pieces.append((" ", pieces[-1][1]))
        pieces += value
    return tuple(pieces)


def cut(done: list[Value], current: Value | None, value: Value) -> tuple[list[Value], Value | None]:
    """What an unquoted expansion adds: it joins what stands beside it where no space does."""
    whole = said(value)
    parts = fields(value)
    if not parts:
        return (done if current is None or not whole else [*done, current]), (current if not whole else None)
    if current is not None and not whole[0].isspace():
        parts[0] = (*current, *parts[0])
    elif current is not None:
        done = [*done, current]
    return ([*done, *parts], None) if whole[-1].isspace() else ([*done, *parts[:-1]], parts[-1])


def separated(items: Sequence[Value], by: str, where: Place) -> Value:
    """The items as one value, ``by`` between them."""
    pieces = [piece for item in items for piece in (*item, (by, where))]
    return tuple(pieces[:-1])
