"""Bash's syntax trees, by tree-sitter."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

__all__ = ["errors", "first", "parse", "text"]


def parse(script: str) -> Node:
    """The tree of a whole script; what cannot be read is an ERROR node within it."""
    return _parser().parse(script.encode()).root_node


def text(node: Node) -> str:
    """The characters of a node."""
    return (node.text or b"").decode("utf-8", "replace")


def errors(node: Node) -> Iterator[Node]:
    """The outermost parts that are no bash, in order."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if here.is_error or here.is_missing:
            yield here
        elif here.has_error:
            waiting.extend(reversed(here.children))


def first(node: Node, kind: str) -> Node | None:
    """The first node of a kind at or below ``node``."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if here.type == kind:
            return here
        waiting.extend(reversed(here.children))
    return None


@cache
def _parser() -> Parser:
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_bash.language()))
