"""What quotes and backslashes leave of a text."""

from __future__ import annotations

import re

from meshwright.imports.found import Place
from meshwright.imports.shell.value import Value

__all__ = ["ansi", "bare", "double_quoted", "unquoted"]


def bare(source: str) -> str:
    """Of a word without quotes: a backslash takes its letter literally, and continues a line."""
    return re.sub(r"\\(\n|.)", lambda found: "" if found[1] == "\n" else found[1], source)


def double_quoted(source: bytes, where: Place) -> Value:
    """Of literal text between double quotes, each line at its place; ``where``: of the first."""
    raw = source.decode("utf-8", "replace")
    lines = [(piece, number) for number, piece in enumerate(raw.split("\n"))]
    pieces = []
    for piece, number in lines:
        last = number == len(lines) - 1
        continued = piece.endswith("\\") and not piece.endswith("\\\\") and not last
        said_here = piece[:-1] if continued else piece if last else f"{piece}\n"
        pieces.append((re.sub(r"\\([$`\"\\])", r"\1", said_here), Place(where.file, where.line + number)))
    return tuple(pieces)


def unquoted(operand: str) -> str:
    """Of the operand of ``${name:-operand}``: quotes around all of it fall."""
    quoted = len(operand) > 1 and operand[0] == operand[-1] and operand[0] in "\"'"
    return operand[1:-1] if quoted else operand


def ansi(source: str) -> str:
    """Of ``$'...'`` and ``$"..."``."""
    inner = source.strip("$").strip("'\"")
    return re.sub(r"\\([nt'\"\\])", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), inner)
