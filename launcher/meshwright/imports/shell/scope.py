"""What a script has set so far, and the commands it has come to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from meshwright.errors import ConfigError, Problem
from meshwright.imports.found import Place
from meshwright.imports.shell.value import Value, fields, joined, of_text, said, unknown
from meshwright.imports.unknown import is_optional, mark, names

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["Command", "Scope", "merged"]

STEPS = 20_000  # statements; a launch script has a hundred
LONGEST = 2**16  # characters of one variable; the arguments of a training are a tenth of it
DEEPEST = 40  # scripts within scripts, functions within functions


@dataclass(frozen=True)
class Command:
    """A command that the script comes to. ``outer``: the words before it that start it (srun, docker).

    ``environment``: what it finds there of the script, by name: exported, or before it on its line.
    """

    words: tuple[Value, ...]
    place: Place
    outer: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Budget:
    """What is left of the steps; shared by all scopes of an import."""

    steps: int = STEPS

    def take(self, where: Place) -> None:
        """Count one step.

        Raises:
            ConfigError: where none is left: a loop or a recursion without end.

        """
        self.steps -= 1
        if self.steps < 0:
            message = f"takes more than {STEPS:,} steps; it loops, or calls itself"
            raise ConfigError([Problem(str(where), message, "import.steps")])


@dataclass
class Scope:
    """Variables are lists of values, of one value where they are no arrays."""

    file: str
    variables: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    arguments: tuple[Value, ...] | None = None  # $1 ...; None: nobody says
    functions: dict[str, tuple[str, Place]] = field(default_factory=dict)
    exported: set[str] = field(default_factory=set)
    answers: Mapping[str, str] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    files: dict[str, Value] = field(default_factory=dict)  # what here-documents write
    assumed: dict[str, Place] = field(default_factory=dict)  # variables taken as unset, and where that was decisive
    choices: dict[str, list[str]] = field(default_factory=dict)  # what an open value is compared with, by name
    headers: dict[str, tuple[str, Place]] = field(default_factory=dict)  # of the job scripts that are submitted
    lost: list[tuple[Place, str, str]] = field(default_factory=list)  # what could not be read, and why
    before: dict[str, tuple[Value, ...]] = field(default_factory=dict)  # a line's own variables: what they were
    outer: tuple[str, ...] = ()
    depth: int = 0
    ended: bool = False  # by exit or return
    leaves: str = ""  # break or continue: the loop that is walked
    first_line: int = 1  # of the text that is read, in its file
    pieces: Value = ()  # of a text that variables were put together to, and where each was written
    budget: Budget = field(default_factory=Budget)

    def place(self, node: Node) -> Place:
        """Where a node stands."""
        at = 0
        for piece, where in self.pieces:
            size = len(piece.encode())
            if node.start_byte < at + size:
                return Place(where.file, where.line + piece.encode()[: node.start_byte - at].count(b"\n"))
            at += size
        return Place(self.file, self.first_line + node.start_point[0])

    def value(self, name: str, where: Place) -> Value:
        """A variable's text, or the mark of what is unknown."""
        if name in self.answers:
            return of_text(self.answers[name], where)
        if name == "BASH_SOURCE":
            return of_text(self.file, where)
        if name.isdigit():
            return self._argument(int(name), where)
        if name in ("@", "*"):
            return joined(self.all_arguments(where))
        if name in self.variables:
            return self.variables[name][0] if self.variables[name] else ()
        return unknown(where, name)

    def items(self, name: str, where: Place) -> tuple[Value, ...]:
        """An array's items."""
        if name in ("@", "*"):
            return self.all_arguments(where)
        if name in self.answers:
            return tuple(fields(of_text(self.answers[name], where)))
        return self.variables.get(name, (self.value(name, where),))

    def all_arguments(self, where: Place) -> tuple[Value, ...]:
        """``$@``; where nobody says what follows the script's name, nothing does."""
        return self.arguments or ()

    def _argument(self, number: int, where: Place) -> Value:
        if number == 0:
            return of_text(self.file, where)
        if self.arguments is None:
            return unknown(where, str(number))
        return self.arguments[number - 1] if number <= len(self.arguments) else ()

    def assume_unset(self, text: str) -> str:
        """Without the variables that nobody sets: a script is written for the case that nobody does.

        What a job or a rank finds in its environment is no such variable.
        """
        for name in names(text):
            if self._optional(name):
                self.assumed.setdefault(name, Place(self.file, self.first_line))
                text = text.replace(mark(name), "")
        return text

    def _optional(self, name: str) -> bool:
        return is_optional(name) and self.is_set(name) is None

    def decides(self, text: str) -> tuple[str, ...]:
        """The names that would have to be known to know whether ``text`` is what it is compared with."""
        return tuple(name for name in names(text) if not self._optional(name))

    def is_set(self, name: str) -> bool | None:
        """Whether a variable has a value; None where only the outside knows."""
        if name in self.answers or name in self.variables:
            return True
        if name.isdigit() and self.arguments is not None:
            return int(name) <= len(self.arguments)
        return None

    def set(self, name: str, values: Sequence[Value], where: Place) -> None:
        """Assign; what the user answers stays.

        Raises:
            ConfigError: where the value grows beyond all bounds.

        """
        if sum(len(said(value)) for value in values) > LONGEST:
            raise ConfigError([Problem(str(where), f"{name} grows beyond {LONGEST:,} characters", "import.size")])
        self.variables[name] = tuple(values)

    def take(self, environment: Mapping[str, str], where: Place) -> None:
        """Set what a launcher puts into the environment."""
        self.variables |= {name: (of_text(text, where),) for name, text in environment.items()}

    def environment(self, own: Collection[str], where: Place) -> dict[str, str]:
        """What a command finds there: ``own`` stands before it on its line, where others' own does not reach it."""
        exported = {name: self.before.get(name, self.variables.get(name, ())) for name in self.exported}
        held = {name: said(values[0]) for name, values in exported.items() if values}
        return {**held, **{name: said(self.value(name, where)) for name in own}}

    def branch(self) -> Scope:
        """A copy to try one way of a fork in; what is noted for the reader is one for all."""
        copies = {"variables": dict(self.variables), "exported": set(self.exported), "files": dict(self.files)}
        return Scope(**{**vars(self), **copies})

    def deep(self, where: Place) -> None:
        """Refuse what calls itself without end.

        Raises:
            ConfigError: where scripts, functions or texts are within one another beyond all bounds.

        """
        if self.depth >= DEEPEST:
            message = f"scripts or functions start one another {DEEPEST} deep"
            raise ConfigError([Problem(str(where), message, "import.depth")])

    def inner(self, file: str, arguments: tuple[Value, ...] | None) -> Scope:
        """For a script that this one starts: it inherits the variables, and what it sets is its own."""
        self.deep(Place(file))
        fresh = self.branch()
        fresh.file, fresh.arguments, fresh.depth, fresh.ended = file, arguments, self.depth + 1, False
        return fresh


def merged(into: Scope, ways: Sequence[Scope], where: Place, causes: Sequence[str]) -> None:
    """After a fork that only the outside decides: what differs between the ways is unknown.

    It is asked for by the names that decide (``causes``), by its own where nothing of a name does.
    """
    for name in set().union(*(way.variables for way in ways)):
        held = [way.variables.get(name) for way in ways]
        if all(one is held[0] for one in held) or len(set(map(_texts, held))) == 1:
            into.variables[name] = ways[0].variables[name]
        else:
            into.variables[name] = (
                *_common([way.variables.get(name, ()) for way in ways]),
                unknown(where, *(causes or (name,))),
            )
    into.exported = set().union(*(way.exported for way in ways))
    into.files = {name: text for way in ways for name, text in way.files.items()}
    into.ended = all(way.ended for way in ways)


def _common(arrays: Sequence[tuple[Value, ...]]) -> tuple[Value, ...]:
    """The items that arrays begin with, whichever way was taken; of plain variables nothing."""
    same = takewhile(lambda items: len({said(item) for item in items}) == 1, zip(*arrays, strict=False))
    return tuple(items[0] for items in same) if max(map(len, arrays)) > 1 else ()


def _texts(values: tuple[Value, ...] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(map(said, values))
