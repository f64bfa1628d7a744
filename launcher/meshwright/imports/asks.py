"""What files leave open, said so that one answer mends all that waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from meshwright.errors import Problem
from meshwright.imports.found import Ask, Given
from meshwright.imports.unknown import names, readable

__all__ = ["left_open", "open_ask", "problems"]

MOST = 10  # choices that are named


def open_ask(path: str, given: Given) -> Ask:
    """The question for a key whose value only the outside knows."""
    return Ask(path, Problem(path, _one(given, {}), "import.open"), given)


def left_open(given: Given) -> str:
    """What a key takes, and how to say it."""
    return f"{readable(_text(given))} is left open; give {_answers(_needs(given), {})}"


def problems(asks: Iterable[Ask], choices: Mapping[str, Sequence[str]]) -> list[Problem]:
    """One problem for all keys that wait for the same names, with the values that the source compares them with."""
    asked = list(asks)
    order = {needs: number for number, needs in reversed(list(enumerate(map(_of, asked))))}
    groups = groupby(sorted(asked, key=lambda ask: order[_of(ask)]), key=_of)
    return [problem for needs, group in groups for problem in _problems(needs, list(group), choices)]


def _of(ask: Ask) -> tuple[str, ...]:
    return _needs(ask.given) if ask.given else ()


def _problems(needs: tuple[str, ...], asks: Sequence[Ask], choices: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    given = [ask.given for ask in asks if ask.given]
    if not needs:
        yield from (ask.problem for ask in asks)
    elif len(given) == 1:
        yield Problem(asks[0].path, _one(given[0], choices), "import.open")
    else:
        keys = [one.key for one in given]
        some = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        waits = " and ".join(readable(f"${name}" if name.isidentifier() or name.isdigit() else name) for name in needs)
        message = f"{given[0].place}: {some} wait for {waits}, which the file leaves open; give "
        yield Problem(asks[0].path, message + _answers(needs, choices), "import.open")


def _one(given: Given, choices: Mapping[str, Sequence[str]]) -> str:
    takes = f"{given.place}: {given.key} takes {readable(_text(given))}, which the file leaves open; give "
    return takes + _answers(_needs(given), choices)


def _answers(needs: Sequence[str], choices: Mapping[str, Sequence[str]]) -> str:
    """``set.NAME=VALUE`` for each name; the words behind a script's name all at once."""
    said = " ".join(f"set.{name}=VALUE{_choice(choices.get(name, ()))}" for name in needs)
    return f"{said}, or all its words as set.args='...'" if any(name.isdigit() for name in needs) else said


def _choice(held: Sequence[str]) -> str:
    more = ", ..." if len(held) > MOST else ""
    return f" (it asks for {', '.join(held[:MOST])}{more})" if held else ""


def _needs(given: Given) -> tuple[str, ...]:
    return names(_text(given))


def _text(given: Given) -> str:
    value = given.value
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
