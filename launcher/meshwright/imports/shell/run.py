"""Walks a script as bash would, running nothing: variables are kept, commands collected.

A fork that only the outside decides is walked both ways, and what differs afterwards is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from meshwright.imports.found import Place
from meshwright.imports.shell import commands
from meshwright.imports.shell.conditions import arithmetic_truth, holds
from meshwright.imports.shell.scope import Scope, merged
from meshwright.imports.shell.tree import errors, parse, text
from meshwright.imports.shell.value import Value, said, unknown
from meshwright.imports.shell.words import arithmetic_value, expanded, fields_of, value_of
from meshwright.imports.unknown import is_known

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["read"]

ITEMS = 200  # of a for loop that are walked one by one
ROUNDS = 200  # of a while loop


def read(script: str, scope: Scope, first_line: int = 1) -> None:
    """Walk ``script``; what it sets and comes to is in ``scope``."""
    before, scope.first_line = scope.first_line, first_line
    tree = parse(script)
    for wrong in errors(tree):
        scope.lost.append((scope.place(wrong), text(wrong), "no bash that can be read"))
    _block(tree, scope)
    scope.first_line = before


def _block(node: Node, scope: Scope) -> None:
    for child in node.children:
        if scope.ended:
            return
        _statement(child, scope)


def _statement(node: Node, scope: Scope) -> None:
    scope.budget.take(scope.place(node))
    walk = _WALKS.get(node.type)
    if walk is not None:
        walk(node, scope)
    elif node.is_error:
        _block(node, scope)


def _assignment(node: Node, scope: Scope) -> None:
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


def _declaration(node: Node, scope: Scope) -> None:
    """``export``, ``local``, ``declare`` and their kin."""
    exports = text(node).startswith(("export", "declare -x"))
    for child in node.named_children:
        if child.type == "variable_assignment":
            _assignment(child, scope)
        name = text(child).partition("=")[0].rstrip("+")
        if exports and child.type in ("variable_assignment", "variable_name"):
            scope.exported.add(name)


_ASIDE = ("comment", "file_redirect", "heredoc_redirect", "herestring_redirect")


def _command(node: Node, scope: Scope) -> None:
    """A simple command; what is assigned before it on its line stays, as scripts of one line a variable mean it."""
    words: list[Value] = []
    for child in node.children:
        if child.type == "variable_assignment":
            _assignment(child, scope)
        elif child.is_named and child.type not in _ASIDE:
            words += fields_of(child, scope)
    commands.run(words, scope.place(node), scope, read)


def _redirected(node: Node, scope: Scope) -> None:
    """A here-document is a script where a shell reads it, or a file where ``cat`` writes it."""
    body = node.child_by_field_name("body")
    document = next((child for child in node.children if child.type == "heredoc_redirect"), None)
    text_node = document and next((child for child in document.children if child.type == "heredoc_body"), None)
    if document is not None and text_node is not None:
        start = next((text(child) for child in document.children if child.type == "heredoc_start"), "")
        where = scope.place(text_node)
        source = text(text_node)
        value = ((source, where),) if start[:1] in "\"'\\" else expanded(source, where, scope)
        target = next((one for one in _targets(node) if one.type == "file_redirect"), None)
        destination = target.child_by_field_name("destination") if target is not None else None
        words = [said(field) for child in (body.named_children if body else ()) for field in fields_of(child, scope)]
        if words[:1] in (["bash"], ["sh"], ["sbatch"]):
            read(said(value), scope, where.line)
        elif destination is not None:
            scope.files[said(value_of(destination, scope))] = value
    if body is not None:
        _statement(body, scope)


def _targets(node: Node) -> list[Node]:
    inner = [child for child in node.children if child.type == "heredoc_redirect"]
    return [*node.children, *(child for one in inner for child in one.children)]


def _if(node: Node, scope: Scope) -> None:
    """Ways of an if: those that may be taken are walked, and none after one that is."""
    ways: list[Scope] = []
    for condition, body in _clauses(node):
        truth = True if condition is None else _truth(condition, scope)
        if truth is False:
            continue
        way = scope if truth and not ways else scope.branch()
        _statements(body, way)
        if truth and not ways:
            return
        ways.append(way)
        if truth:
            break
    else:
        ways += [scope.branch()] if ways else []
    if ways:
        _merge(scope, ways, node)


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


def _statements(nodes: Sequence[Node], scope: Scope) -> None:
    for node in nodes:
        if not scope.ended:
            _statement(node, scope)


def _merge(scope: Scope, ways: Sequence[Scope], node: Node) -> None:
    """A way that ends the script (an error message, exit) is not gone."""
    going = [way for way in ways if not way.ended] or list(ways)
    merged(scope, going, scope.place(node))


def _truth(condition: Sequence[Node], scope: Scope) -> bool | None:
    """The truth of the commands between ``if`` and ``then``: of the last one, as far as it is a test."""
    named = [node for node in condition if node.is_named]
    return _of(named[-1], scope) if named else None


def _of(node: Node, scope: Scope) -> bool | None:
    match node.type:
        case "test_command":
            return holds(node, scope)
        case "negated_command":
            value = _of(node.children[-1], scope)
            return None if value is None else not value
        case "list" if len(node.named_children) == 2:
            return _both(node, scope)
        case "compound_statement" if text(node).startswith("(("):
            return arithmetic_truth(text(node)[2:-2], node, scope)
        case "command":
            words = [said(field) for child in node.named_children for field in fields_of(child, scope)]
            return commands.truth(words, scope)
        case "variable_assignment":
            return True
    return None


def _both(node: Node, scope: Scope) -> bool | None:
    left, right = (_of(child, scope) for child in node.named_children)
    if any(child.type == "&&" for child in node.children):
        return False if False in (left, right) else None if None in (left, right) else True
    return True if True in (left, right) else None if None in (left, right) else False


_TESTS = ("test_command", "negated_command")


def _list(node: Node, scope: Scope) -> None:
    """``a && b``, ``a || b``."""
    left, *_, right = [child for child in node.children if child.is_named]
    joint = "&&" if any(child.type == "&&" for child in node.children) else "||"
    truth = _of(left, scope)
    if left.type not in _TESTS:
        _statement(left, scope)
    if truth is None and left.type not in (*_TESTS, "list"):
        truth = True  # a command that ran is taken to have succeeded
    if truth is None:
        way = scope.branch()
        _statement(right, way)
        _merge(scope, [scope.branch(), way], node)
    elif truth == (joint == "&&"):
        _statement(right, scope)


def _case(node: Node, scope: Scope) -> None:
    asked = node.child_by_field_name("value")
    subject = scope.assume_unset(said(value_of(asked, scope))) if asked is not None else ""
    items = [child for child in node.children if child.type == "case_item"]
    if is_known(subject):
        for item in items:
            if any(fnmatchcase(subject, said(value_of(one, scope))) for one in item.children_by_field_name("value")):
                return _statements(_body(item), scope)
        return None
    ways = [scope.branch() for _ in items]
    for item, way in zip(items, ways, strict=True):
        _statements(_body(item), way)
    return _merge(scope, [*ways, scope.branch()], node)


def _body(item: Node) -> list[Node]:
    values = item.children_by_field_name("value")
    return [child for child in item.children if child.is_named and child not in values]


def _for(node: Node, scope: Scope) -> None:
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
        _block(body, scope)


def _while(node: Node, scope: Scope) -> None:
    """As long as the condition is known to hold."""
    body, conditions = node.child_by_field_name("body"), node.children_by_field_name("condition")
    wanted = text(node).startswith("while")
    for _ in range(ROUNDS):
        truth = _truth(conditions, scope)
        if truth is None:
            return _maybe(body, scope, node)
        if truth != wanted or scope.ended or body is None:
            return None
        _block(body, scope)
    return None


def _maybe(body: Node | None, scope: Scope, node: Node) -> None:
    if body is not None:
        way = scope.branch()
        _block(body, way)
        _merge(scope, [scope.branch(), way], node)


def _c_for(node: Node, scope: Scope) -> None:
    _maybe(node.child_by_field_name("body"), scope, node)


def _function(node: Node, scope: Scope) -> None:
    name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
    if name is not None and body is not None:
        scope.functions[text(name)] = (text(body), scope.place(body))


def _compound(node: Node, scope: Scope) -> None:
    """``{ ... }``, or ``((...))`` with its assignments."""
    if not text(node).startswith("(("):
        return _block(node, scope)
    return commands.calculate(text(node)[2:-2], scope.place(node), scope)


def _unset(node: Node, scope: Scope) -> None:
    for child in node.named_children:
        scope.variables.pop(text(child), None)


_WALKS: Mapping[str, Callable[[Node, Scope], None]] = {
    "variable_assignment": _assignment,
    "variable_assignments": _block,
    "declaration_command": _declaration,
    "command": _command,
    "redirected_statement": _redirected,
    "if_statement": _if,
    "list": _list,
    "case_statement": _case,
    "for_statement": _for,
    "while_statement": _while,
    "c_style_for_statement": _c_for,
    "function_definition": _function,
    "compound_statement": _compound,
    "subshell": _block,
    "do_group": _block,
    "pipeline": _block,
    "negated_command": _block,
    "unset_command": _unset,
}
