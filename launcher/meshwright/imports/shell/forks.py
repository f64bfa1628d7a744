"""Forks and loops: ways that may be taken are walked, and what differs between them afterwards is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from meshwright.imports.shell.commands import calculate
from meshwright.imports.shell.conditions import arithmetic_truth, causes, choose
from meshwright.imports.shell.scope import Scope, merged
from meshwright.imports.shell.success import last_succeeds, succeeds
from meshwright.imports.shell.tree import text
from meshwright.imports.shell.value import said, unknown
from meshwright.imports.shell.words import fields_of, value_of
from meshwright.imports.unknown import is_known

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["FORKS", "Walk"]

Walk = Callable[[Sequence["Node"], Scope], None]
"""Walks statements in order."""

ITEMS = 200  # of a for loop that are walked one by one
ROUNDS = 200  # of a while loop


def _if(node: Node, scope: Scope, walk: Walk) -> None:
    """Ways of an if: those that may be taken are walked, and none after one that is."""
    ways: list[Scope] = []
    asked: list[str] = []
    for condition, body in _clauses(node):
        truth = True if condition is None else last_succeeds(condition, scope)
        if truth is False or (truth and condition is not None and _guards(condition, body, scope, walk)):
            continue
        asked += [name for one in condition or () if truth is None for name in causes(one, scope)]
        way = scope if truth and not ways else scope.branch()
        walk(body, way)
        if truth and not ways:
            return
        ways.append(way)
        if truth:
            break
    else:
        ways += [scope.branch()] if ways else []
    if ways:
        _merge(scope, ways, node, asked)


def _guards(condition: Sequence[Node], body: Sequence[Node], scope: Scope, walk: Walk) -> bool:
    """Whether an ``if`` only stops a user who did not set a variable: the script is written for one who did."""
    written = " ".join(map(text, condition))
    missing = [name for name in scope.assumed if re.search(rf"\$\{{?{name}\b", written)]
    if not missing:
        return False
    way = scope.branch()
    walk(body, way)
    if way.ended:
        for name in missing:
            del scope.assumed[name]
    return way.ended


def _clauses(node: Node) -> list[tuple[list[Node] | None, list[Node]]]:
    """Conditions and bodies of if, elif and else in order."""
    clauses: list[tuple[list[Node] | None, list[Node]]] = []
    parts: list[Node] = []
    condition: list[Node] = []
    for child in node.children:
        if child.type == "then":
            condition, parts = parts, []
        elif child.type in ("elif_clause", "else_clause"):
            rest = _clauses(child) if child.type == "elif_clause" else [(None, child.children[1:])]
            clauses += rest
        elif child.type not in ("if", "elif", "fi"):
            parts.append(child)
    return [(condition, parts), *clauses]


def _merge(scope: Scope, ways: Sequence[Scope], node: Node, asked: Sequence[str]) -> None:
    """A way that ends the script (an error message, exit) is not gone."""
    going = [way for way in ways if not way.ended] or list(ways)
    merged(scope, going, scope.place(node), tuple(dict.fromkeys(asked)))


_TESTS = ("test_command", "negated_command")


def _list(node: Node, scope: Scope, walk: Walk) -> None:
    """``a && b``, ``a || b``."""
    left, *_, right = [child for child in node.children if child.is_named]
    joint = "&&" if any(child.type == "&&" for child in node.children) else "||"
    truth = succeeds(left, scope)
    if left.type not in _TESTS:
        walk([left], scope)
    if truth is None and left.type not in (*_TESTS, "list"):
        truth = True  # a command that ran is taken to have succeeded
    if truth is None:
        way = scope.branch()
        walk([right], way)
        _merge(scope, [scope.branch(), way], node, causes(left, scope))
    elif truth == (joint == "&&"):
        walk([right], scope)


def _case(node: Node, scope: Scope, walk: Walk) -> None:
    asked = node.child_by_field_name("value")
    subject = scope.assume_unset(said(value_of(asked, scope))) if asked is not None else ""
    items = [child for child in node.children if child.type == "case_item"]
    if is_known(subject):
        for item in items:
            if any(fnmatchcase(subject, said(value_of(one, scope))) for one in item.children_by_field_name("value")):
                return walk(_body(item), scope)
        return None
    ways = [scope.branch() for _ in items]
    for item, way in zip(items, ways, strict=True):
        for pattern in item.children_by_field_name("value"):
            choose(scope, subject, said(value_of(pattern, scope)))
        walk(_body(item), way)
    return _merge(scope, [*ways, scope.branch()], node, scope.decides(subject))


def _body(item: Node) -> list[Node]:
    values = item.children_by_field_name("value")
    return [child for child in item.children if child.is_named and child not in values]


def _for(node: Node, scope: Scope, walk: Walk) -> None:
    """Each item in turn, where they are known and few; else the body once, with the variable unknown."""
    variable, body = node.child_by_field_name("variable"), node.child_by_field_name("body")
    items = [field for child in node.children_by_field_name("value") for field in fields_of(child, scope)]
    if variable is None or body is None:
        return
    name, where = text(variable), scope.place(node)
    if len(items) > ITEMS or not all(is_known(said(item)) for item in items):
        items = [unknown(where, name)]
    for item in items:
        scope.set(name, [item], where)
        if _left(body, scope, walk):
            return


def _while(node: Node, scope: Scope, walk: Walk) -> None:
    """As long as the condition is known to hold."""
    body, conditions = node.child_by_field_name("body"), node.children_by_field_name("condition")
    wanted = text(node).startswith("while")
    for _ in range(ROUNDS):
        truth = last_succeeds(conditions, scope)
        if truth is None:
            return _maybe(body, scope, node, walk)
        if truth != wanted or scope.ended or body is None:
            return None
        if _left(body, scope, walk):
            return None
    return None


def _left(body: Node, scope: Scope, walk: Walk) -> bool:
    """Walk a loop's body once; whether it ended the loop."""
    walk(body.children, scope)
    word, scope.leaves = scope.leaves, ""
    return word == "break"


def _maybe(body: Node | None, scope: Scope, node: Node, walk: Walk) -> None:
    if body is not None:
        way = scope.branch()
        _left(body, way, walk)
        _merge(scope, [scope.branch(), way], node, [])


def _c_for(node: Node, scope: Scope, walk: Walk) -> None:
    """``for ((i = 0; i < N; i++))``, as long as its condition is known to hold."""
    body, where = node.child_by_field_name("body"), scope.place(node)
    start, condition, step = (node.child_by_field_name(name) for name in ("initializer", "condition", "update"))
    if body is None or condition is None:
        return _maybe(body, scope, node, walk)
    calculate(text(start) if start is not None else "", where, scope)
    for _ in range(ROUNDS):
        truth = arithmetic_truth(text(condition), node, scope)
        if truth is None:
            return _maybe(body, scope, node, walk)
        if not truth or scope.ended:
            return None
        if _left(body, scope, walk):
            return None
        calculate(text(step) if step is not None else "", where, scope)
    return None


FORKS: dict[str, Callable[[Node, Scope, Walk], None]] = {
    "if_statement": _if,
    "list": _list,
    "case_statement": _case,
    "for_statement": _for,
    "while_statement": _while,
    "c_style_for_statement": _c_for,
}
"""By kind of statement."""
