"""What a command of a script does to what we know: built-ins set, scripts start scripts, the rest is noted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from meshwright.imports.found import Place
from meshwright.imports.shell.conditions import tested
from meshwright.imports.shell.scope import Command, Scope
from meshwright.imports.shell.scripts import Read, lined, source, started
from meshwright.imports.shell.substitution import formatted
from meshwright.imports.shell.value import Value, joined, of_text, said, unknown
from meshwright.imports.shell.words import arithmetic_value

__all__ = ["calculate", "run", "truth"]

_NOTHING = frozenset(
    (
        *("set", "echo", "mkdir", "cd", "trap", "ulimit", "wait", "sleep", "true", ":", "shopt", "rm", "cp"),
        *("mv", "ls", "date", "tee", "cat"),
    )
)
"""Commands that start no training and set no variable."""


def run(words: Sequence[Value], where: Place, scope: Scope, read: Read, own: Sequence[str] = ()) -> None:
    """One simple command. ``own``: the variables that stand before it on its line."""
    name = said(words[0]) if words else ""
    if not name:
        return
    if name in scope.functions:
        _call(name, words[1:], scope, read)
    elif name in _BUILTINS:
        _BUILTINS[name](words[1:], where, scope, read)
    elif name not in _NOTHING and not started(words, where, scope, read):
        scope.commands.append(Command(tuple(words), where, scope.outer, scope.environment(own, where)))


def truth(words: list[str], scope: Scope) -> bool | None:
    """Whether a command of these words succeeds, where it is ``test``, ``true`` or ``false``."""
    if words[:1] == ["test"]:
        return tested(words[1:], scope)
    return {"true": True, ":": True, "false": False}.get(words[0]) if words else None


def calculate(source: str, where: Place, scope: Scope) -> None:
    """``((name = expression))``, ``((name += expression))``, ``((name++))``."""
    for part in source.split(","):
        if match := re.fullmatch(r"\s*(\w+)\s*([-+*/%]?)=(?!=)(.+)", part, re.DOTALL):
            name, sign, expression = match.groups()
            whole = f"{name}{sign}({expression})" if sign else expression
            scope.set(name, [arithmetic_value(whole, where, scope)], where)
        elif match := re.fullmatch(r"\s*(\w+)(\+\+|--)\s*", part):
            scope.set(match[1], [arithmetic_value(f"{match[1]}{match[2][0]}1", where, scope)], where)


def _call(name: str, arguments: Sequence[Value], scope: Scope, read: Read) -> None:
    """A function: its own arguments, everybody's variables."""
    body, where = scope.functions[name]
    before, scope.arguments = scope.arguments, tuple(arguments)
    outer_file, scope.file = scope.file, where.file
    scope.depth += 1
    try:
        scope.deep(where)
        read(_inside(body), scope, where.line)
    finally:
        scope.depth -= 1
        scope.arguments, scope.file, scope.ended = before, outer_file, False


def _inside(body: str) -> str:
    """The text between a function's braces, on its own lines."""
    return body.strip()[1:-1] if body.strip()[:1] in "{(" else body


def _eval(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    """The text is read as a script, which runs nothing either."""
    scope.depth += 1
    scope.deep(where)
    lined(joined(list(words)), scope, where, read)
    scope.depth -= 1


def _again(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    """``exec``, ``nohup``, ``time``: the words behind it are the command."""
    rest = list(words)
    while rest and (said(rest[0]).startswith("-") or re.fullmatch(r"\w+=.*", said(rest[0]), re.DOTALL)):
        rest.pop(0)
    run(rest, where, scope, read)


def _set(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    texts = [said(word) for word in words]
    if "--" in texts:
        scope.arguments = tuple(words[texts.index("--") + 1 :])


def _shift(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    count = said(words[0]) if words else "1"
    scope.arguments = (scope.arguments or ())[int(count) if count.isdigit() else 1 :] if scope.arguments else None


def _exit(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    scope.ended = True


def _leave(word: str) -> Callable[[Sequence[Value], Place, Scope, Read], None]:
    """``break``, ``continue``."""

    def leave(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
        scope.leaves = word

    return leave


def _declare(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    """``declare``, ``export`` and their kin where the grammar takes them for commands."""
    for word in words:
        name, equals, _ = said(word).partition("=")
        if equals and re.fullmatch(r"\w+", name):
            scope.set(name, [of_text(said(word)[len(name) + 1 :], where)], where)


def _let(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    for word in words:
        calculate(said(word), where, scope)


def _print(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    """``printf -v NAME FORMAT WORDS``; what is printed sets nothing."""
    texts = [said(word) for word in words]
    if texts[:1] == ["-v"] and len(texts) > 2:
        scope.set(texts[1], [of_text(formatted(texts[2], texts[3:]), where)], where)


def _asked(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    """``read``, ``mapfile``: the names are set by what comes in."""
    for word in words:
        name = said(word)
        if re.fullmatch(r"[A-Za-z_]\w*", name):
            scope.set(name, [unknown(where, name)], where)


_BUILTINS: dict[str, Callable[[Sequence[Value], Place, Scope, Read], None]] = {
    "source": source,
    ".": source,
    "eval": _eval,
    **dict.fromkeys(("exec", "nohup", "time", "env", "command", "builtin", "sudo", "nice"), _again),
    "set": _set,
    "shift": _shift,
    **dict.fromkeys(("exit", "return"), _exit),
    **{word: _leave(word) for word in ("break", "continue")},
    **dict.fromkeys(("declare", "export", "local", "readonly", "typeset"), _declare),
    "let": _let,
    "printf": _print,
    **dict.fromkeys(("read", "mapfile", "readarray"), _asked),
}
