"""Commands whose output is a function of their words alone: these are answered, no other is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from meshwright.imports.shell import arithmetic
from meshwright.imports.unknown import is_known

__all__ = ["answer", "formatted"]

MOST = 1000  # numbers of a seq


def answer(commands: Sequence[Sequence[str]], file: str) -> str | None:
    """What a chain of commands in a script ``file`` would print; None where only running it would tell."""
    folder = ""
    for number, words in enumerate(commands):
        last = number == len(commands) - 1
        if not words or not all(is_known(word) for word in words):
            return None
        if words[0] == "cd" and len(words) > 1 and not last:
            folder = words[-1]
        elif last and words[0] == "pwd" and folder:
            return folder
        else:
            return _PURE[words[0]](list(words[1:])) if words[0] in _PURE and last else None
    return None


def formatted(form: str, words: Sequence[str]) -> str:
    """What ``printf`` makes of ``%s`` and ``%d``; each takes the next word."""
    waiting = list(words)
    return re.sub(r"%%|%[sd]", lambda one: "%" if one[0] == "%%" else waiting.pop(0) if waiting else "", form)


def _printf(words: list[str]) -> str | None:
    return formatted(words[0].replace("\\n", "\n"), words[1:]) if words and not words[0].startswith("-") else None


def _echo(words: list[str]) -> str:
    return " ".join(word for word in words if word not in ("-n", "-e"))


def _dirname(words: list[str]) -> str | None:
    return str(PurePosixPath(words[-1]).parent) if words else None


def _basename(words: list[str]) -> str | None:
    if not words:
        return None
    name = PurePosixPath(words[0]).name
    return name.removesuffix(words[1]) if len(words) > 1 else name


def _same(words: list[str]) -> str | None:
    paths = [word for word in words if not word.startswith("-")]
    return paths[-1] if paths else None


def _expr(words: list[str]) -> str | None:
    try:
        return str(arithmetic.evaluate(" ".join(words), lambda name: name))
    except arithmetic.Open:
        return None


def _seq(words: list[str]) -> str | None:
    if not 1 <= len(words) <= 2 or not all(word.isdigit() for word in words):
        return None
    first, last = (1, int(words[0])) if len(words) == 1 else map(int, words)
    return " ".join(map(str, range(first, last + 1))) if last - first < MOST else None


_PURE: dict[str, Callable[[list[str]], str | None]] = {
    "echo": _echo,
    "printf": _printf,
    "dirname": _dirname,
    "basename": _basename,
    "realpath": _same,
    "readlink": _same,
    "expr": _expr,
    "seq": _seq,
}
