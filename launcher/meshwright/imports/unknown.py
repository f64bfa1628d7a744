"""Values that a source leaves to the outside: a variable nobody sets, the output of a command that is not run.

Such a part travels inside the text between two private characters, so that joining, cutting and splitting texts
needs no second case.
"""

from __future__ import annotations

import re

__all__ = ["clean", "is_bare", "is_known", "is_optional", "mark", "names", "readable"]

OPEN, CLOSE, NEXT = "\ue000", "\ue001", "\ue002"
SHIFT = 0xE100
"""What a shell would take for its own in a name stands shifted by as much: a text with marks may be read again."""

_PRIVATE = re.compile("[\ue000-\ue1ff]")
_PART = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")
_RUNTIME = re.compile(r"SLURM|PMI|OMPI|.*RANK|HOST|PATH|HOME|USER|PWD|RANDOM|PPID|UID")
"""What a job or a rank finds in its environment."""


def mark(*named: str) -> str:
    """The text that stands for what ``named`` would say."""
    joined = NEXT.join(dict.fromkeys(re.sub(r"[^\w]", _shifted, clean(readable(name))) for name in named))
    return f"{OPEN}{joined}{CLOSE}"


def clean(text: str) -> str:
    """A file's own text, which may hold the private characters as well."""
    return _PRIVATE.sub("", text)


def is_known(text: object) -> bool:
    """Whether nothing in it is left open."""
    return not (isinstance(text, str) and OPEN in text)


def is_bare(text: str) -> bool:
    """Whether it is one open part and nothing else: an unquoted variable may be no word, or several."""
    return _PART.fullmatch(text) is not None


def is_optional(name: str) -> bool:
    """Whether it is a variable that a user sets or leaves: a script is written for the case that nobody does."""
    return re.fullmatch(r"[A-Za-z_]\w*", name) is not None and not _RUNTIME.match(name)


def names(text: str) -> tuple[str, ...]:
    """What would have to be known."""
    parts = (name for part in _PART.findall(text) for name in part.split(NEXT))
    return tuple(dict.fromkeys(map(_plain, parts)))


def readable(text: str) -> str:
    """For people: ``$NAME`` for each open part."""
    return clean(_PART.sub(lambda part: "·".join(_dollar(_plain(name)) for name in part[1].split(NEXT)), text))


def _shifted(character: re.Match[str]) -> str:
    return chr(SHIFT + ord(character[0])) if ord(character[0]) < 0x100 else character[0]


def _plain(name: str) -> str:
    return "".join(chr(ord(c) - SHIFT) if SHIFT <= ord(c) < SHIFT + 0x100 else c for c in name)


def _dollar(name: str) -> str:
    return f"${name}" if re.fullmatch(r"\w+", name) else name
