"""Whether commands succeed, as far as they are tests: true, false, or None where only the outside knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshwright.imports.shell.commands import truth
from meshwright.imports.shell.conditions import arithmetic_truth, holds
from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.tree import text
from meshwright.imports.shell.value import said
from meshwright.imports.shell.words import fields_of

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["last_succeeds", "succeeds"]


def last_succeeds(condition: Sequence[Node], scope: Scope) -> bool | None:
    """The truth of the commands between ``if`` and ``then``: of the last one, as far as it is a test."""
    named = [node for node in condition if node.is_named]
    return succeeds(named[-1], scope) if named else None


def succeeds(node: Node, scope: Scope) -> bool | None:
    """The truth of one command."""
    match node.type:
        case "test_command":
            return holds(node, scope)
        case "negated_command":
            value = succeeds(node.children[-1], scope)
            return None if value is None else not value
        case "list" if len(node.named_children) == 2:
            return _both(node, scope)
        case "compound_statement" if text(node).startswith("(("):
            return arithmetic_truth(text(node)[2:-2], node, scope)
        case "compound_statement" | "subshell":
            return last_succeeds([child for child in node.children if child.type not in "{}()"], scope)
        case "command":
            words = [said(field) for child in node.named_children for field in fields_of(child, scope)]
            return truth(words, scope)
        case "variable_assignment":
            return True
    return None


def _both(node: Node, scope: Scope) -> bool | None:
    left, right = (succeeds(child, scope) for child in node.named_children)
    if any(child.type == "&&" for child in node.children):
        return False if False in (left, right) else None if None in (left, right) else True
    return True if True in (left, right) else None if None in (left, right) else False
