"""Here-documents: a script where a shell reads it, a file where a command writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.tree import text
from meshwright.imports.shell.value import Value, said
from meshwright.imports.shell.words import expanded, fields_of, value_of

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["documented"]

_READERS = (["bash"], ["sh"], ["sbatch"])


def documented(node: Node, scope: Scope, read: Callable[[str, Scope, int], None]) -> None:
    """What becomes of the here-document of a redirected statement, where it has one."""
    body = _first(node, "heredoc_redirect", "heredoc_body")
    if body is None:
        return
    value, target = (
        _value(node, body, scope),
        _first(node, "file_redirect") or _first(node, "heredoc_redirect", "file_redirect"),
    )
    destination = target.child_by_field_name("destination") if target is not None else None
    if _words(node, scope)[:1] in _READERS:
        read(said(value), scope, scope.place(body).line)
    elif destination is not None:
        scope.files[said(value_of(destination, scope))] = value


def _value(node: Node, body: Node, scope: Scope) -> Value:
    """Expanded, but where the word that ends it is quoted."""
    start, where, source = _first(node, "heredoc_redirect", "heredoc_start"), scope.place(body), text(body)
    quoted = start is not None and text(start)[:1] in ("'", '"', "\\")
    return ((source, where),) if quoted else expanded(source, where, scope)


def _words(node: Node, scope: Scope) -> list[str]:
    body = node.child_by_field_name("body")
    return [said(field) for child in (body.named_children if body else ()) for field in fields_of(child, scope)]


def _first(node: Node | None, *kinds: str) -> Node | None:
    """The first child of a kind, its first child of the next, and so on."""
    for kind in kinds:
        node = next((child for child in node.children if child.type == kind), None) if node is not None else None
    return node
