"""Values that a source leaves to the outside: a variable nobody sets, the output of a command that is not run.

Such a part travels inside the text between two private characters, so that joining, cutting and splitting texts
needs no second case.
"""

from __future__ import annotations

import re

__all__ = ["clean", "is_known", "mark", "names", "readable"]

OPEN, CLOSE = "\ue000", "\ue001"
_PART = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")


def mark(*named: str) -> str:
    """The text that stands for what ``named`` would say."""
    joined = ",".join(dict.fromkeys(re.sub(r"\s+", "\u00a0", clean(name)) for name in named))
    return f"{OPEN}{joined}{CLOSE}"


def clean(text: str) -> str:
    """A file's own text, which may hold the private characters as well."""
    return text.replace(OPEN, "").replace(CLOSE, "")


def is_known(text: object) -> bool:
    """Whether nothing in it is left open."""
    return not (isinstance(text, str) and OPEN in text)


def names(text: str) -> tuple[str, ...]:
    """What would have to be known."""
    return tuple(dict.fromkeys(name for part in _PART.findall(text) for name in part.split(",")))


def readable(text: str) -> str:
    """For people: ``$NAME`` for each open part."""
    shown = _PART.sub(lambda part: "".join(_dollar(name) for name in part[1].split(",")), text)
    return shown.replace("\u00a0", " ")


def _dollar(name: str) -> str:
    return f"${name}" if re.fullmatch(r"\w+", name) else name
