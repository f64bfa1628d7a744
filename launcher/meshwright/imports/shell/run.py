"""Walks a script as bash would, running nothing: variables are kept, commands collected.

A fork that only the outside decides is walked both ways, and what differs afterwards is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from meshwright.imports.shell import commands
from meshwright.imports.shell.assignments import assignment, declaration, unset
from meshwright.imports.shell.documents import documented
from meshwright.imports.shell.forks import FORKS
from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.tree import errors, parse, text
from meshwright.imports.shell.value import Value, said
from meshwright.imports.shell.words import fields_of

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["read"]


_PLACEHOLDER = re.compile(r"^([ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)=)<[^<>()|&\n]*>", re.MULTILINE)
"""``NAME=<what to write here>``, which bash would take for a redirection."""


def read(script: str, scope: Scope, first_line: int = 1) -> None:
    """Walk ``script``; what it sets and comes to is in ``scope``."""
    before, scope.first_line = scope.first_line, first_line
    whole, scope.pieces = scope.pieces, scope.pieces if said(scope.pieces) == script else ()
    tree = parse(_PLACEHOLDER.sub(r"\1$\2", script))
    for wrong in errors(tree):
        scope.lost.append((scope.place(wrong), text(wrong), "no bash that can be read"))
    _block(tree, scope)
    scope.first_line, scope.pieces = before, whole


def _statements(nodes: Sequence[Node], scope: Scope) -> None:
    for node in nodes:
        if not scope.ended and not scope.leaves:
            _statement(node, scope)


def _block(node: Node, scope: Scope) -> None:
    _statements(node.children, scope)


def _statement(node: Node, scope: Scope) -> None:
    scope.budget.take(scope.place(node))
    if node.type in FORKS:
        FORKS[node.type](node, scope, _statements)
    elif node.type in _WALKS:
        _WALKS[node.type](node, scope)
    elif node.is_error:
        _block(node, scope)


_ASIDE = ("comment", "file_redirect", "heredoc_redirect", "herestring_redirect")


def _command(node: Node, scope: Scope) -> None:
    """A simple command; what is assigned before it on its line stays, as scripts of one line a variable mean it."""
    words: list[Value] = []
    own: list[str] = []
    for child in node.children:
        if child.type == "variable_assignment":
            own.append(text(child).partition("=")[0].rstrip("+"))
            scope.before.setdefault(own[-1], scope.variables.get(own[-1], ()))
            assignment(child, scope)
            scope.exported.add(own[-1])
        elif child.is_named and child.type not in _ASIDE:
            words += fields_of(child, scope)
    commands.run(words, scope.place(node), scope, read, own)


def _redirected(node: Node, scope: Scope) -> None:
    documented(node, scope, read)
    body = node.child_by_field_name("body")
    if body is not None:
        _statement(body, scope)


def _function(node: Node, scope: Scope) -> None:
    name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
    if name is not None and body is not None:
        scope.functions[text(name)] = (text(body), scope.place(body))


def _compound(node: Node, scope: Scope) -> None:
    """``{ ... }``, or ``((...))`` with its assignments."""
    if text(node).startswith("(("):
        commands.calculate(text(node)[2:-2], scope.place(node), scope)
    else:
        _block(node, scope)


_WALKS: Mapping[str, Callable[[Node, Scope], None]] = {
    "variable_assignment": assignment,
    "declaration_command": declaration,
    "unset_command": unset,
    "command": _command,
    "redirected_statement": _redirected,
    "function_definition": _function,
    "compound_statement": _compound,
    **dict.fromkeys(
        ("variable_assignments", "subshell", "do_group", "pipeline", "negated_command"),
        _block,
    ),
}
