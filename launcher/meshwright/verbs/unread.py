"""Options of one verb given to another: they would change nothing, without a word."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.errors import ConfigError, Problem

__all__ = ["refuse_unread"]

_READ_BY = {
    "out": "bench report status",
    "to": "export import",
    "trace": "plan report",
    "links": "bench",
    "format": "report",
    "chart": "report",
    "why": "plan search",
    "rows": "validate calibrate",
    "rehearse": "rehearse",
    "data": "data",
    "recipes": "recipes",
}
_READ_THEIR_OWN = ("import", "check", "status", "diff")
"""Verbs that name what they do not know themselves."""


def refuse_unread(verb: str, words: Sequence[str]) -> None:
    """Look through the ``words`` behind ``verb``.

    Raises:
        ConfigError: naming each option that the verb does not read, and the verbs that do.

    """
    if verb in _READ_THEIR_OWN:
        return
    given = dict.fromkeys(word.lstrip("+~").partition("=")[0] for word in words)
    wrong = [
        Problem(key, f"{verb} does not read it; {' and '.join(of.split())} {'do' if ' ' in of else 'does'}")
        for key in given
        if (of := _READ_BY.get(key.partition(".")[0])) and verb not in of.split()
    ]
    if wrong:
        raise ConfigError(wrong)
