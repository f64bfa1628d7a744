"""Bash's whole-number arithmetic on texts whose expansions are done already."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

from meshwright.imports.unknown import is_known, names

__all__ = ["Open", "evaluate"]

LARGEST = 2**63
DEEPEST = 30  # brackets and signs within one another

Lookup = Callable[[str], str]
"""The text of a variable."""


class Open(Exception):  # noqa: N818 - it is no error: what is asked for only the outside knows
    """A part of the expression is not known, or no arithmetic; ``names`` says which."""

    def __init__(self, *unknown: str) -> None:
        """Take the names."""
        self.names = unknown
        super().__init__(*unknown)


def evaluate(expression: str, lookup: Lookup, depth: int = 0) -> int:
    """The value of ``expression``; names in it are looked up.

    Raises:
        Open: where a part of it is unknown, or it is no expression.

    """
    if not is_known(expression):
        raise Open(*names(expression))
    reader = _Reader(_TOKEN.findall(expression), lookup, depth)
    if depth > DEEPEST or not reader.tokens or "".join(reader.tokens) != re.sub(r"\s+", "", expression):
        raise Open(expression.strip() or "nothing")
    value = reader.ternary()
    if reader.tokens:
        raise Open(expression.strip())
    return value


_TOKEN = re.compile(r"\*\*|<<|>>|<=|>=|==|!=|&&|\|\||0[xX][0-9a-fA-F]+|\w+|[-+*/%()<>!~&|^?:]")
_RANKS = ("||", "&&", "|", "^", "&", "== !=", "< > <= >=", "<< >>", "+ -", "* / %", "**")
_RANK = {sign: rank for rank, signs in enumerate(_RANKS) for sign in signs.split()}


class _Reader:
    """Reads tokens from the left, each operator by its rank."""

    def __init__(self, tokens: list[str], lookup: Lookup, depth: int) -> None:
        self.tokens, self.lookup, self.depth = tokens, lookup, depth

    def ternary(self) -> int:
        asked = self.binary(0)
        if not self._take("?"):
            return asked
        yes = self.ternary()
        self._expect(":")
        no = self.ternary()
        return yes if asked else no

    def binary(self, rank: int) -> int:
        if rank == len(_RANKS):
            return self.unary()
        left = self.binary(rank + 1)
        while self.tokens and _RANK.get(self.tokens[0]) == rank:
            left = _binary(self.tokens.pop(0), left, self.binary(rank + 1))
        return left

    def unary(self) -> int:
        self.depth += 1
        if self.depth > DEEPEST or not self.tokens:
            raise Open("an expression without end")
        token = self.tokens.pop(0)
        if token in "+-!~":
            value = self.unary()
            return {"-": -value, "+": value, "!": int(not value), "~": ~value}[token]
        if token == "(":
            value = self.ternary()
            self._expect(")")
            return value
        return self._atom(token)

    def _atom(self, token: str) -> int:
        if token[0].isdigit():
            try:
                return _bounded(int(token, 0 if token[:2] in ("0x", "0X") else 10))
            except ValueError:
                raise Open(token) from None
        if not re.fullmatch(r"\w+", token):
            raise Open(token)
        said = self.lookup(token)
        return evaluate(said, self.lookup, self.depth + 1) if said.strip() else 0

    def _take(self, token: str) -> bool:
        if self.tokens[:1] == [token]:
            self.tokens.pop(0)
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise Open(f"an expression without its {token}")


def _binary(sign: str, left: int, right: int) -> int:
    small = not (sign == "**" and right > 64) and not (sign in ("<<", ">>") and not 0 <= right < 63)
    if not small or (sign in "/%" and right == 0):
        raise Open(f"{left}{sign}{right}")
    return _bounded(int(_BINARY[sign](left, right)))


def _bounded(value: int) -> int:
    if not abs(value) < LARGEST:
        raise Open("a number beyond 64 bits")
    return value


def _quotient(left: int, right: int) -> int:
    """Cut towards zero, as C does."""
    whole = abs(left) // abs(right)
    return whole if (left < 0) == (right < 0) else -whole


_BINARY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _quotient,
    "%": lambda left, right: left - right * _quotient(left, right),
    "**": lambda left, right: left**right if right >= 0 else 0,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "&&": lambda left, right: bool(left) and bool(right),
    "||": lambda left, right: bool(left) or bool(right),
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}
