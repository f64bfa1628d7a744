"""``name=value`` in all its forms: plain, added to, arrays, single items, exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.imports.found import Place
from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.tree import text
from meshwright.imports.shell.value import Value, said, unknown
from meshwright.imports.shell.words import arithmetic_value, fields_of, value_of

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["assignment", "declaration", "unset"]


def assignment(node: Node, scope: Scope) -> None:
    """Set a variable, or an item of an array."""
    target, value, where = node.child_by_field_name("name"), node.child_by_field_name("value"), scope.place(node)
    if target is None:
        return
    name, _, index = text(target).partition("[")
    adds = any(child.type == "+=" for child in node.children)
    if value is not None and value.type == "array":
        items = [field for child in value.named_children for field in _item(child, scope)]
        scope.set(name, [*(scope.variables.get(name, ()) if adds else ()), *items], where)
        return
    new = () if value is None else value_of(value, scope)
    if index:
        _set_item(name, said(arithmetic_value(index.rstrip("]"), where, scope)), new, where, scope)
    else:
        scope.set(name, [(*scope.value(name, where), *new) if adds and scope.is_set(name) else new], where)


def _item(node: Node, scope: Scope) -> list[Value]:
    return [] if node.type == "comment" else fields_of(node, scope)


def _set_item(name: str, at: str, new: Value, where: Place, scope: Scope) -> None:
    items = list(scope.variables.get(name, ()))
    if at.isdigit() and int(at) <= len(items):
        items[int(at) : int(at) + 1] = [new]
        scope.set(name, items, where)
    else:
        scope.set(name, [unknown(where, name)], where)


def declaration(node: Node, scope: Scope) -> None:
    """``export``, ``local``, ``declare`` and their kin."""
    exports = text(node).startswith(("export", "declare -x"))
    for child in node.named_children:
        if child.type == "variable_assignment":
            assignment(child, scope)
        name = text(child).partition("=")[0].rstrip("+")
        if exports and child.type in ("variable_assignment", "variable_name"):
            scope.exported.add(name)
            scope.before.pop(name, None)


def unset(node: Node, scope: Scope) -> None:
    """Forget variables."""
    for child in node.named_children:
        scope.variables.pop(text(child), None)
