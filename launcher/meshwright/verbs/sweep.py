"""The points of a sweep taken together: nothing is printed or written before all of them hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meshwright.errors import ConfigError, Problem, distinct
from meshwright.verbs import Words

__all__ = ["every", "print_all"]


def every[T](jobs: Sequence[Words], attempt: Callable[[Words], T]) -> list[T]:
    """What ``attempt`` makes of each point.

    Raises:
        ConfigError: with the problems of all points.

    """
    made: list[T] = []
    problems: list[Problem] = []
    for words in jobs:
        try:
            made.append(attempt(words))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(distinct(problems))
    return made


def print_all(documents: Sequence[Mapping[str, Any]]) -> None:
    """One JSON document: a run's own, or the list of a sweep's."""
    from meshwright.report.print_json import print_json

    print_json(documents[0] if len(documents) == 1 else documents)
