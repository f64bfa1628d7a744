"""The words behind a program, as leaves of a document."""

from __future__ import annotations

from meshwright.imports.documents import Leaves, word
from meshwright.imports.found import Given
from meshwright.imports.launchers import Program
from meshwright.imports.unknown import is_known

__all__ = ["bare", "flag_leaves", "word_leaves"]


def flag_leaves(one: Program) -> Leaves:
    """``--name value`` and ``--name`` as leaves; a value is read as YAML reads it."""
    leaves: Leaves = {}
    name = ""
    for text, where in one.words:
        if text.startswith("--"):
            name, equals, value = text[2:].partition("=")
            leaves[name] = Given(name, _plain(value) if equals else True, where)
        elif name:
            before = leaves[name].value
            leaves[name] = Given(name, _plain(text) if before is True else f"{before} {text}", leaves[name].place)
    return leaves


def word_leaves(one: Program) -> Leaves:
    """``key=value`` and ``+key=value`` of Hydra."""
    pairs = [(text.lstrip("+").partition("="), where) for text, where in one.words if "=" in text]
    return {key: Given(key, _plain(value), where) for (key, _, value), where in pairs if not key.startswith("-")}


def _plain(text: str) -> object:
    return word(text) if is_known(text) else text


def bare(one: Program) -> Leaves:
    """A program without words: what is missing is asked for at its place."""
    return {"program": Given("program", one.name, one.place)}
