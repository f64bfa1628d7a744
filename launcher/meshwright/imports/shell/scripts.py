"""Scripts that a script starts: ``bash -c TEXT``, ``bash FILE``, ``./FILE``, ``source FILE``, ``sbatch FILE``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from meshwright.imports.files import text_of
from meshwright.imports.found import Place
from meshwright.imports.shell import sbatch
from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.value import Value, said
from meshwright.imports.unknown import is_known

__all__ = ["ZOO", "Read", "lined", "source", "started"]

Read = Callable[[str, Scope, int], None]

_SHELLS = ("bash", "sh", "zsh", "/bin/bash", "/bin/sh", "/usr/bin/bash")
_QUEUES = ("sbatch", "qsub", "bsub")
ZOO = ("sbatch_benchmarking.sh", "interactive_benchmarking.sh")
"""Of Megatron-MoE-ModelZoo: they put a command line together by programs (envsubst, yq), which model_zoo reads."""


def started(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> bool:
    """Whether the command starts a further script that can be read."""
    if said(words[0]) in _QUEUES:
        return _queued(words, where, scope, read)
    for number, word in enumerate(words):
        if said(word) in _SHELLS:
            return _by_shell(words[: number + 1], words[number + 1 :], where, scope, read)
    name = said(words[0])
    if name.endswith(".sh") and not name.startswith("-"):
        return _file(words[0], words[1:], where, scope, read, scope.outer)
    return False


def _queued(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> bool:
    """A job script that is handed in: its own options, and those beside its name, which win."""
    for number, word in enumerate(words[1:], 1):
        path = _found(said(word), scope) if "." in said(word) else None
        if path is None:
            continue
        text = text_of(path)
        options = {**sbatch.headers(text, str(path)), **sbatch.options(map(said, words[1:number]), where)}
        scope.headers.update(options)
        inner = scope.inner(str(path), tuple(words[number + 1 :]))
        inner.take(sbatch.variables(options), where)
        read(text, inner, 1)
        return True
    return False


def _by_shell(before: Sequence[Value], after: Sequence[Value], where: Place, scope: Scope, read: Read) -> bool:
    outer = (*scope.outer, *map(said, before[:-1]))
    options = [number for number, word in enumerate(after) if re.fullmatch(r"-\w*c", said(word))]
    if options and options[0] + 1 < len(after):
        script, arguments = after[options[0] + 1], after[options[0] + 3 :]
        inner = scope.inner(scope.file, tuple(arguments))
        inner.outer = outer
        lined(script, inner, where, read)
        return True
    rest = [word for word in after if not said(word).startswith("-")]
    return bool(rest) and _file(rest[0], after[after.index(rest[0]) + 1 :], where, scope, read, outer)


def lined(script: Value, scope: Scope, where: Place, read: Read) -> None:
    """Read a text that a word holds: its first line stands where the word does."""
    first = script[0][1] if script else where
    moved, scope.file, scope.pieces = scope.file, first.file, script
    read(said(script), scope, first.line)
    scope.file, scope.pieces = moved, ()


def _file(
    name: Value, arguments: Sequence[Value], where: Place, scope: Scope, read: Read, outer: tuple[str, ...]
) -> bool:
    path = _found(said(name), scope)
    if path is None or path.name in ZOO:
        return False
    inner = scope.inner(str(path), tuple(arguments))
    inner.outer = outer
    read(text_of(path), inner, 1)
    return True


def _found(name: str, scope: Scope) -> Path | None:
    """The script that a name means: beside the script that names it, or in its folder's parents."""
    if not is_known(name):
        name = PurePosixPath(name).name  # $DIR/args.sh: most likely beside this one
    if not is_known(name) or not name or len(name) > 255:
        return None
    here = Path(scope.file).parent
    above = [parent / name for parent in list(here.parents)[:3]] if name.startswith(("./", "../")) else []
    for candidate in (Path(name), here / name, here / PurePosixPath(name).name, *above):
        try:
            if candidate.is_file():
                return candidate
        except OSError:
            return None
    return None


def source(words: Sequence[Value], where: Place, scope: Scope, read: Read) -> None:
    """``source FILE``: what it sets is set here."""
    path = _found(said(words[0]), scope) if words else None
    if path is None:
        named = said(words[0]) if words else ""
        scope.lost.append((where, f"source {named}", "no such file beside the script; what it sets is open"))
        return
    before, scope.file = scope.file, str(path)
    arguments, scope.arguments = scope.arguments, tuple(words[1:]) or scope.arguments
    scope.depth += 1
    try:
        scope.deep(where)
        read(text_of(path), scope, 1)
    finally:
        scope.file, scope.arguments, scope.ended = before, arguments, False
        scope.depth -= 1
