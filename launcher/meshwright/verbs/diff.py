"""``meshwright diff A B``: what differs between two runs, and whether it changes what is learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from meshwright.compare import Comparison, Side, compare
from meshwright.errors import ConfigError, Problem
from meshwright.verbs import Words
from meshwright.verbs.operand import read

__all__ = ["run"]

OUTPUTS = ("text", "json", "markdown")
SAME, RUNS, LEARNED = 0, 1, 3
"""Exit codes. 2 is every verb's: the configuration is wrong."""


def run(words: Words) -> int:
    """0: equal in effect. 1: only how it runs differs. 3: what is learned differs."""
    output = _output(words.overrides)
    operands = [word for word in words.overrides if not word.startswith("output=")]
    if len(operands) != 2:
        raise ConfigError(f"diff of what? give two, not {len(operands)}: a run folder, or words in one quoted argument")
    comparison = compare(*_sides(operands, words.config_dir))
    _show(comparison, output)
    return LEARNED if comparison.count("learned") else RUNS if comparison.count("runs") else SAME


def _output(words: Sequence[str]) -> str:
    asked = [word.partition("=")[2] for word in words if word.startswith("output=")]
    if asked and asked[-1] not in OUTPUTS:
        raise ConfigError([Problem("output", f"expected one of {', '.join(OUTPUTS)}, got {asked[-1]!r}")])
    return asked[-1] if asked else "text"


def _sides(operands: Sequence[str], config_dir: str | None) -> Iterator[Side]:
    """Both runs, or everything that is wrong with both."""
    problems: list[Problem] = []
    sides = []
    for letter, operand in zip("AB", operands, strict=True):
        try:
            sides.append(read(operand, config_dir))
        except ConfigError as error:
            problems += [replace(one, path=": ".join(filter(None, (letter, one.path)))) for one in error.problems]
    if problems:
        raise ConfigError(problems)
    yield from sides


def _show(comparison: Comparison, output: str) -> None:
    from meshwright.report.diff import document, markdown, show

    if output == "json":
        from meshwright.report.print_json import print_json

        print_json(document(comparison))
    elif output == "markdown":
        print(*markdown(comparison), sep="\n")
    else:
        show(comparison)
