"""``[ ... ]``, ``[[ ... ]]`` and ``(( ... ))``: true, false, or None where only the outside knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.tree import text
from meshwright.imports.shell.value import said
from meshwright.imports.shell.words import arithmetic_value, fields_of, value_of
from meshwright.imports.unknown import is_known

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["arithmetic_truth", "causes", "choose", "holds", "tested"]

Truth = bool | None

_PARTS = ("binary_expression", "unary_expression", "parenthesized_expression", "negation_expression")


def holds(node: Node, scope: Scope) -> Truth:
    """The truth of a test command."""
    return tested(list(_words(node, scope)), scope)


def _words(node: Node, scope: Scope) -> Iterator[str]:
    double = text(node).startswith("[[")
    for child in node.children:
        if text(child) not in ("[", "]", "[[", "]]"):
            yield from _tokens(child, scope, double)


def causes(node: Node, scope: Scope) -> tuple[str, ...]:
    """The names that a condition waits for."""
    if node.type == "test_command":
        words = list(_words(node, scope))
    elif node.type == "command":
        words = [said(one) for child in node.named_children for one in fields_of(child, scope)]
    else:
        return tuple(name for child in node.named_children for name in causes(child, scope))
    return tuple(name for word in words for name in scope.decides(word))


def choose(scope: Scope, open_text: str, choice: str) -> None:
    """Note that a value which only the outside knows is compared with ``choice``."""
    asked = scope.decides(open_text)
    if len(asked) == 1 and choice not in (held := scope.choices.setdefault(asked[0], [])):
        held.append(choice)


def arithmetic_truth(source: str, node: Node, scope: Scope) -> Truth:
    """The truth of ``((source))``."""
    value = said(arithmetic_value(source, scope.place(node), scope))
    return int(value) != 0 if is_known(value) else None


def tested(words: list[str], scope: Scope) -> Truth:
    """The truth of the words of a test."""
    reader = _Reader(list(words), scope)
    value = reader.either()
    return value if not reader.words else None


def _tokens(node: Node, scope: Scope, double: bool) -> Iterator[str]:
    """Operators and words in order; the grammar's own nesting of -a and -o is wrong."""
    if node.type in _PARTS:
        for child in node.children:
            yield from _tokens(child, scope, double)
    elif node.is_named and node.type not in ("test_operator", "regex", "extglob_pattern"):
        yield from [said(value_of(node, scope))] if double else [said(one) for one in fields_of(node, scope)]
    else:
        yield text(node)


class _Reader:
    def __init__(self, words: list[str], scope: Scope) -> None:
        self.words, self.scope = words, scope

    def either(self) -> Truth:
        value = self.both()
        while self.words[:1] in (["||"], ["-o"]):
            self.words.pop(0)
            other = self.both()
            value = True if value or other else None if None in (value, other) else False
        return value

    def both(self) -> Truth:
        value = self.one()
        while self.words[:1] in (["&&"], ["-a"]):
            self.words.pop(0)
            other = self.one()
            value = False if False in (value, other) else None if None in (value, other) else True
        return value

    def one(self) -> Truth:
        if not self.words:
            return None
        word = self.words.pop(0)
        if word == "!" and self.words:
            value = self.one()
            return None if value is None else not value
        if word == "(":
            value = self.either()
            return value if self.words and self.words.pop(0) == ")" else None
        if self.words and self.words[0] in _BINARY and len(self.words) > 1:
            operator, right = self.words.pop(0), self.words.pop(0)
            left, right = self.scope.assume_unset(word), self.scope.assume_unset(right)
            if operator in ("=", "==", "!=") and is_known(right) and right:
                choose(self.scope, left, right)
            return _compared(left, operator, right)
        if re.fullmatch("-[a-zA-Z]", word) and self.words and self.words[0] not in ("&&", "||", "-a", "-o", ")"):
            return self._unary(word, self.words.pop(0))
        return bool(word) if is_known(word) else None

    def _unary(self, operator: str, operand: str) -> Truth:
        """What depends on files is the outside's; a variable that nobody sets is empty."""
        if operator == "-v":
            return bool(self.scope.is_set(operand))
        if operator not in ("-z", "-n"):
            return None
        empty = _empty(operand, self.scope)
        return empty if operator == "-z" or empty is None else not empty


def _empty(operand: str, scope: Scope) -> Truth:
    """``-z``, and of what nobody sets."""
    operand = scope.assume_unset(operand)
    return operand == "" if is_known(operand) else None


def _compared(left: str, operator: str, right: str) -> Truth:
    if not (is_known(left) and is_known(right)):
        return None
    try:
        return _BINARY[operator](left, right)
    except (ValueError, re.error):
        return None


_SIMPLE = r"\^?[\w.\- /]{0,100}\$?"  # a pattern that cannot take long

_BINARY: dict[str, Callable[[str, str], Truth]] = {
    "=": fnmatchcase,
    "==": fnmatchcase,
    "!=": lambda left, right: not fnmatchcase(left, right),
    "=~": lambda left, right: re.search(right, left) is not None if re.fullmatch(_SIMPLE, right) else None,
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "-eq": lambda left, right: int(left) == int(right),
    "-ne": lambda left, right: int(left) != int(right),
    "-lt": lambda left, right: int(left) < int(right),
    "-le": lambda left, right: int(left) <= int(right),
    "-gt": lambda left, right: int(left) > int(right),
    "-ge": lambda left, right: int(left) >= int(right),
}
