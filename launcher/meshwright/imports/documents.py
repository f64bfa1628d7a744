"""YAML, JSON and TOML as leaves by dotted path, each with its line. Nothing is constructed but plain values."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import yaml

from meshwright.errors import ConfigError, Problem
from meshwright.imports.found import Given, Place

__all__ = ["Leaves", "json_leaves", "plain", "toml_leaves", "word", "yaml_leaves"]

Leaves = dict[str, Given]
"""Values by dotted path: scalars, lists, and mappings that are empty."""

LONG = 1000  # characters of a word; beyond, it is no number, switch or list
MOST = 200_000  # nodes of a file, aliases counted as often as they are used


def yaml_leaves(text: str, file: str) -> Leaves:
    """The leaves of a YAML file; tags beyond YAML's own are read as the plain value under them.

    Raises:
        ConfigError: where it is no YAML, or a few lines of it unfold to more than anybody writes.

    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        count = iter(range(MOST))
        return dict(_of_node(root, "", file, count)) if isinstance(root, yaml.MappingNode) else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = Place(file, mark.line + 1 if mark else 0)
        raise _unreadable(where, f"no YAML: {getattr(error, 'problem', None) or error}") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _unreadable(Place(file), f"no YAML that can be read: {error}") from None


def json_leaves(text: str, file: str) -> tuple[Leaves, bool]:
    """The leaves of a JSON file, and whether it holds comments, which JSON has not.

    Raises:
        ConfigError: where it is no JSON.

    """
    bare = _COMMENT.sub(_blank, text)
    try:
        value = json.loads(bare)
    except RecursionError:
        raise _unreadable(Place(file), "nested too deeply") from None
    except ValueError as error:
        line = getattr(error, "lineno", 0)
        raise _unreadable(Place(file, line), f"no JSON: {getattr(error, 'msg', error)}") from None
    lines = _json_lines(bare)
    return {path: Given(path, leaf, Place(file, lines.get(path, 0))) for path, leaf in _flat(value)}, bare != text


def toml_leaves(text: str, file: str) -> Leaves:
    """The leaves of a TOML file.

    Raises:
        ConfigError: where it is no TOML.

    """
    try:
        value = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(Place(file), f"no TOML: {error}") from None
    lines = _toml_lines(text)
    return {path: Given(path, leaf, Place(file, lines.get(path, 0))) for path, leaf in _flat(value)}


def plain(leaves: Leaves) -> dict[str, Any]:
    """The values alone."""
    return {path: one.value for path, one in leaves.items()}


def word(text: str) -> Any:
    """A word of a command line, as YAML reads it; what is none of its values is text.

    >>> word("1e-5"), word("true"), word("[1, 2]")
    (1e-05, True, [1, 2])
    """
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return yaml.safe_load(text) if len(text) < LONG else text
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _unreadable(place: Place, message: str) -> ConfigError:
    return ConfigError([Problem(str(place), message, "import.unreadable")])


def _of_node(node: yaml.Node, path: str, file: str, count: Iterator[int]) -> Iterator[tuple[str, Given]]:
    _take(count, file)
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            yield from _of_node(value, f"{path}.{name}" if path else str(name), file, count)
    else:
        yield path, Given(path, _value(node, file, count), Place(file, node.start_mark.line + 1))


def _take(count: Iterator[int], file: str) -> None:
    if next(count, None) is None:
        raise _unreadable(Place(file), f"unfolds to more than {MOST:,} values")


def _value(node: yaml.Node, file: str, count: Iterator[int]) -> Any:
    _take(count, file)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, file, count) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _value(value, file, count) for key, value in node.value}
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    """YAML's own kinds; 1e-4, which YAML 1.1 takes for a text, is the number that is meant."""
    text = str(node.value)
    if node.tag not in _KINDS:
        return text
    if node.tag == "tag:yaml.org,2002:str":
        plain_style = getattr(node, "style", None) is None
        return float(text) if plain_style and _NUMBER.fullmatch(text) else text
    return yaml.SafeLoader("").construct_object(node)


_KINDS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value


_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _blank(match: re.Match[str]) -> str:
    """A comment as blanks, so that lines and columns stay; texts stay whole."""
    return match[0] if match[0].startswith('"') else re.sub(r"[^\n]", " ", match[0])


def _json_lines(text: str) -> dict[str, int]:
    """The line of each key by its dotted path."""
    lines: dict[str, int] = {}
    path: list[str] = []
    before, line, at = "", 1, 0
    for token in _TOKEN.finditer(text):
        line, at = line + text.count("\n", at, token.start()), token.start()
        if token[0] == ":" and before.startswith('"'):
            key = json.loads(before)
            path = [*path[:-1], key]
            lines.setdefault(".".join(path), line)
        elif token[0] in "{[":
            path = [*path, "?"]
        elif token[0] in "}]":
            path = path[:-1]
        before = token[0]
    return lines


def _toml_lines(text: str) -> dict[str, int]:
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            section = f"{header[1].strip()}."
        elif key := re.match(r"\s*([\w.\-\"]+)\s*=", line):
            lines.setdefault(section + key[1].strip('"'), number)
    return lines
