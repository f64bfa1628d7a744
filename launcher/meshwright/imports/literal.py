"""Literal values of Python, with the arithmetic that people write layer patterns in: ``([0]*3+[1]*58)``. Never eval."""

from __future__ import annotations

import ast
from typing import Any

__all__ = ["literal"]

LARGEST = 100_000  # items of a list, as many as a model may have layers
DEEPEST = 1_000  # characters: an expression of a command line is far shorter


def literal(text: str) -> Any:
    """The value of ``text``.

    Raises:
        ValueError: where it is anything else than numbers, texts and lists of them, or too large.

    """
    if len(text) > DEEPEST:
        raise ValueError(f"{len(text)} characters are no literal")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(str(error)) from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str() | None as value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            values = [_value(item) for item in items]
            return values if isinstance(node, ast.List) else tuple(values)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _bounded(_value(left) + _value(right))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(_value(left), _value(right))
    raise ValueError(f"{ast.unparse(node)} is no literal")


def _product(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, list) and (not isinstance(other, int) or len(one) * other > LARGEST):
            raise ValueError("a list of too many items")
        if isinstance(one, str):
            raise ValueError("a text is not multiplied")
    return _bounded(left * right)


def _bounded(value: Any) -> Any:
    if isinstance(value, int | float) and not abs(value) < 2**63:
        raise ValueError("a number too large")
    return value
