"""What a user can get wrong, one line a problem, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ConfigError", "Problem", "Repair", "assignments", "distinct", "literal"]

Repair = Mapping[str, object]
"""Override paths and the values to set, for example ``{"parallelism.pp": 14}``."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong: ``path: message; repairs``, after the ``point`` of a sweep that alone has it."""

    path: str
    message: str
    rule: str = ""
    repairs: tuple[Repair, ...] = ()
    point: str = ""

    def __str__(self) -> str:
        """The one line a user reads. Control characters of user input are shown escaped."""
        line = ": ".join(filter(None, (self.point, self.path, self.message)))
        if self.repairs:
            line += "; set " + ", or ".join(map(assignments, self.repairs))
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class ConfigError(ValueError):
    """The configuration cannot be compiled. ``problems`` has one entry for each thing wrong with it."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        """Take the problems, or one message that belongs to no path."""
        self.problems = (Problem("", problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def distinct(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, where stages or points of a sweep share it."""
    return list({str(problem): problem for problem in problems}.values())


def assignments(repair: Repair) -> str:
    """``repair`` as words for the command line."""
    return " ".join(
        f"\"{path}='{value}'\"" if _needs_quotes(value) else f"{path}={literal(value)}"
        for path, value in repair.items()
    )


def _needs_quotes(value: object) -> bool:
    """Whether a shell, or Hydra's grammar, would take a character of the value for its own, as of ``(tt|)*2``."""
    return isinstance(value, str) and not set("()|*").isdisjoint(value)


def literal(value: object) -> str:
    """A value as Hydra's grammar reads it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(literal, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
