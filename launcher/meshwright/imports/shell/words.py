"""Words of the syntax tree -> the fields that bash would make of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from meshwright.imports.found import Place
from meshwright.imports.shell import arithmetic, parameters
from meshwright.imports.shell.quoting import ansi, bare, double_quoted, unquoted
from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.substitution import answer
from meshwright.imports.shell.tree import first, parse, text
from meshwright.imports.shell.value import Value, cut, joined, of_text, said, separated, unknown
from meshwright.imports.unknown import is_known, names

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["arithmetic_value", "expanded", "fields_of", "value_of"]

Atom = tuple[Sequence[Value], bool]
"""One or more values, and whether white space in them cuts the word."""

EXPANSIONS = ("simple_expansion", "expansion", "command_substitution", "arithmetic_expansion")


def fields_of(node: Node, scope: Scope) -> list[Value]:
    """The fields of one word."""
    done: list[Value] = []
    current: Value | None = None
    for values, cuts in _atoms(node, scope):
        for number, value in enumerate(values):
            if number and current is not None:
                done, current = [*done, current], None
            if not cuts:
                current = (*(current or ()), *value)
                continue
            done, current = cut(done, current, value)
    return done if current is None else [*done, current]


def value_of(node: Node, scope: Scope) -> Value:
    """The value of a word where nothing is cut, as behind ``=``."""
    return tuple(piece for values, _ in _atoms(node, scope) for piece in joined(list(values)))


def expanded(source: str, where: Place, scope: Scope) -> Value:
    """A text as between double quotes: an operand, a here-document."""
    tree = parse('"' + source.replace('"', '\\"') + '"')
    string = first(tree, "string")
    if string is None or tree.has_error:
        return of_text(source, where)
    moved, scope.first_line = scope.first_line, where.line
    try:
        return value_of(string, scope)
    finally:
        scope.first_line = moved


def arithmetic_value(source: str, where: Place, scope: Scope) -> Value:
    """The value of ``$((source))``."""
    expression = said(expanded(source, where, scope))
    try:
        number = arithmetic.evaluate(expression, lambda name: said(scope.value(name, where)))
        return of_text(str(number), where)
    except arithmetic.Open as open_:
        return unknown(where, *open_.names)


def _atoms(node: Node, scope: Scope) -> Iterator[Atom]:
    where = scope.place(node)
    match node.type:
        case "string":
            yield from _quoted(node, scope)
        case "raw_string":
            yield [of_text(text(node)[1:-1], where)], False
        case "ansi_c_string" | "translated_string":
            yield [of_text(ansi(text(node)), where)], False
        case "concatenation":
            for child in node.children:
                yield from _atoms(child, scope)
        case kind if kind in EXPANSIONS:
            yield _expansion(node, scope), True
        case "process_substitution":
            yield [unknown(where, text(node))], False
        case "command_name" if node.child_count == 1:
            yield from _atoms(node.children[0], scope)
        case _:
            yield [of_text(bare(text(node)), where)], False


def _quoted(node: Node, scope: Scope) -> Iterator[Atom]:
    """A double-quoted text. The grammar leaves out some white space, so the literal parts are what lies between."""
    source, base = node.text or b"", node.start_byte
    at, row = 1, node.start_point[0]
    for child in node.children:
        if child.type not in EXPANSIONS:
            continue
        start = child.start_byte - base + _lead(text(child))
        lead = double_quoted(source[at:start], _row(row, scope))
        if said(lead):
            yield [lead], False
        yield _expansion(child, scope), False
        row += source[at : child.end_byte - base].count(b"\n")
        at = child.end_byte - base
    tail = double_quoted(source[at : len(source) - 1], _row(row, scope))
    if said(tail) or at == 1:
        yield [tail], False


def _row(row: int, scope: Scope) -> Place:
    return Place(scope.file, scope.first_line + row)


def _expansion(node: Node, scope: Scope) -> Sequence[Value]:
    source = text(node)[_lead(text(node)) :]
    where = Place(scope.file, scope.place(node).line + text(node)[: _lead(text(node))].count("\n"))
    if node.type == "simple_expansion":
        name = source[1:]
        if name == "#" and scope.arguments is not None:
            return [of_text(str(len(scope.arguments)), where)]
        return scope.items(name, where) if name == "@" else [scope.value(name, where)]
    if node.type == "arithmetic_expansion":
        inner = source[3:-2] if source.startswith("$((") else source[2:-1]
        return [arithmetic_value(inner, where, scope)]
    if node.type == "command_substitution":
        return [_substituted(node, scope)]
    return _parameter(source, where, scope)


def _lead(source: str) -> int:
    """The white space, and the continued lines, that the grammar counts to an expansion."""
    return len(source) - len(source.lstrip(" \t\n\\"))


def _parameter(source: str, where: Place, scope: Scope) -> Sequence[Value]:
    """``${...}``."""
    found = parameters.parts(source)
    if found is None:
        return [unknown(where, source)]
    prefix, name, index, rest = found
    if prefix == "#":
        return [_length(name, index, where, scope)]
    if prefix == "!":
        name = said(scope.value(name, where)) if re.fullmatch(r"\w+", said(scope.value(name, where))) else ""
        if not name:
            return [unknown(where, source)]
    values = _indexed(name, index, where, scope)
    operator = next((one for one in parameters.OPERATORS if rest.startswith(one)), None)
    if operator:
        return _conditional(name, values, operator, rest[len(operator) :], where, scope)
    return [_changed(value, rest, where, scope) for value in values] if rest else values


def _indexed(name: str, index: str, where: Place, scope: Scope) -> Sequence[Value]:
    if index == "*" and "IFS" in scope.variables:
        return [separated(scope.items(name, where), said(scope.value("IFS", where))[:1], where)]
    if index in ("@", "*") or name == "@":
        return scope.items(name, where)
    if not index:
        return [scope.value(name, where)]
    at = said(arithmetic_value(index, where, scope))
    items = scope.items(name, where)
    if not is_known(at) or (len(items) == 1 and not is_known(said(items[0]))):
        return [unknown(where, name, *names(at))]
    try:
        return [items[int(at)]]
    except (IndexError, ValueError):
        return [()]


def _length(name: str, index: str, where: Place, scope: Scope) -> Value:
    items = scope.items(name, where)
    if not all(is_known(said(item)) for item in items):
        return unknown(where, name)
    return of_text(str(len(items) if index in ("@", "*") else len(said(scope.value(name, where)))), where)


def _conditional(
    name: str, values: Sequence[Value], operator: str, operand: str, where: Place, scope: Scope
) -> Sequence[Value]:
    """``:-`` and its kin. What only the outside knows takes the default: nobody says otherwise."""
    known = scope.is_set(name)
    missing = not known or (operator.startswith(":") and not any(said(value) for value in values))
    if known is None:
        scope.assumed.setdefault(name, where)
    if operator.endswith("+"):
        return [()] if missing else [expanded(unquoted(operand), where, scope)]
    if not missing or operator.endswith("?"):
        return values
    value = expanded(unquoted(operand), where, scope)
    if operator.endswith("="):
        scope.set(name, [value], where)
    return [value]


def _changed(value: Value, rest: str, where: Place, scope: Scope) -> Value:
    source = said(value)
    operand = said(expanded(rest, where, scope))
    if not is_known(source) or not is_known(operand):
        return unknown(where, *names(source), *names(operand))
    result = parameters.changed(source, operand)
    return unknown(where, f"${{...{rest}}}") if result is None else of_text(result, where)


def _substituted(node: Node, scope: Scope) -> Value:
    """``$(...)``: what is a function of texts alone is answered, the rest is never run."""
    commands = [child for child in _nodes(node) if child.type == "command"]
    chained = {child.type for child in node.named_children} <= _CHAINED
    where, pure = scope.place(node), chained and not node.has_error
    inside = _with_separator(node, scope)
    words = [[said(field) for child in one.named_children for field in fields_of(child, inside)] for one in commands]
    result = answer(words, scope.file) if pure else None
    return unknown(where, text(node)[_lead(text(node)) :]) if result is None else of_text(result, where)


_CHAINED = {"command", "list", "redirected_statement", "variable_assignment"}


def _with_separator(node: Node, scope: Scope) -> Scope:
    """Where the commands set IFS for themselves."""
    for child in node.named_children:
        name, value = child.child_by_field_name("name"), child.child_by_field_name("value")
        if child.type == "variable_assignment" and name is not None and text(name) == "IFS" and value is not None:
            inside = scope.branch()
            inside.set("IFS", [value_of(value, scope)], scope.place(node))
            return inside
    return scope


def _nodes(node: Node) -> Iterator[Node]:
    """Everything below, but what stands in further substitutions."""
    for child in node.children:
        yield child
        if child.type not in ("command_substitution", "command"):
            yield from _nodes(child)
