"""The operators of ``${name...}`` on texts that are known."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate

__all__ = ["OPERATORS", "changed", "parts"]

_EXPANSION = re.compile(r"\$\{([#!]?)(\w+|[@*#?$!-])(\[[^\]]*\])?(.*)\}$", re.DOTALL)
OPERATORS = (":-", ":=", ":+", ":?", "-", "=", "+", "?")
"""Those that ask whether the variable is set; with the colon, set and not empty."""


def parts(text: str) -> tuple[str, str, str, str] | None:
    """Prefix, name, index and the rest of ``${...}``; None where it is none of these."""
    match = _EXPANSION.match(text)
    return (match[1], match[2], (match[3] or "")[1:-1], match[4]) if match else None


LONGEST = 2000  # characters of a text that is cut: patterns are tried at every place


def changed(value: str, rest: str) -> str | None:
    """The text after an operator that cuts or replaces; None for one that is not known."""
    if len(value) > LONGEST or len(rest) > LONGEST:
        return None
    for operator, change in _CHANGES:
        if rest.startswith(operator):
            return change(value, rest[len(operator) :])
    return None


def _cut_front(pattern: str, value: str, longest: bool) -> str:
    ends = range(len(value), -1, -1) if longest else range(len(value) + 1)
    return next((value[end:] for end in ends if _matches(pattern, value[:end])), value)


def _cut_back(pattern: str, value: str, longest: bool) -> str:
    starts = range(len(value) + 1) if longest else range(len(value), -1, -1)
    return next((value[:start] for start in starts if _matches(pattern, value[start:])), value)


def _matches(pattern: str, text: str) -> bool:
    return re.match(translate(pattern), text) is not None


def _replaced(value: str, rest: str, count: int) -> str:
    old, _, new = rest.partition("/")
    if any(character in old for character in "*?["):
        return re.sub(translate(old).removesuffix("\\Z").removesuffix("\\z"), lambda _: new, value, count=count)
    return value.replace(old, new, count or -1)


def _slice(value: str, rest: str) -> str | None:
    first, _, length = rest.partition(":")
    try:
        start = int(first.strip(" ()"))
        return value[start:][: int(length)] if length else value[start:]
    except ValueError:
        return None


_CHANGES: tuple[tuple[str, Callable[[str, str], str | None]], ...] = (
    ("##", lambda value, rest: _cut_front(rest, value, longest=True)),
    ("#", lambda value, rest: _cut_front(rest, value, longest=False)),
    ("%%", lambda value, rest: _cut_back(rest, value, longest=True)),
    ("%", lambda value, rest: _cut_back(rest, value, longest=False)),
    ("//", lambda value, rest: _replaced(value, rest, 0)),
    ("/", lambda value, rest: _replaced(value, rest, 1)),
    (":", _slice),
    ("^^", lambda value, _: value.upper()),
    (",,", lambda value, _: value.lower()),
    ("@", lambda value, _: value),
)
