"""The points of a sweep taken together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from meshwright.errors import ConfigError, Problem, distinct
from meshwright.verbs import Words

__all__ = ["attempts", "every", "print_all", "problems_of", "wrong"]


def attempts[T](jobs: Sequence[Words], attempt: Callable[[Words], T]) -> list[T | ConfigError]:
    """What ``attempt`` makes of each point, or what is wrong with it."""
    return [_attempt(words, attempt) for words in jobs]


def _attempt[T](words: Words, attempt: Callable[[Words], T]) -> T | ConfigError:
    try:
        return attempt(words)
    except ConfigError as error:
        return error


def every[T](jobs: Sequence[Words], attempt: Callable[[Words], T]) -> list[T]:
    """What ``attempt`` makes of each point: nothing is printed or written before all of them hold.

    Raises:
        ConfigError: with the problems of all points.

    """
    outcomes = attempts(jobs, attempt)
    made = [outcome for outcome in outcomes if not isinstance(outcome, ConfigError)]
    if len(made) < len(outcomes):
        raise wrong(jobs, outcomes)
    return made


def wrong(jobs: Sequence[Words], outcomes: Sequence[object]) -> ConfigError:
    """All problems: what every point has once, of the others each with the points that have it."""
    found = [problems_of(outcome) for outcome in outcomes]
    shared = [problem for problem in found[0] if all(problem in others for others in found)]
    own = [
        replace(problem, point=words.point)
        for words, problems in zip(jobs, found, strict=True)
        for problem in problems
        if problem not in shared
    ]
    return ConfigError(distinct([*shared, *own]))


def problems_of(outcome: object) -> tuple[Problem, ...]:
    """What is wrong with a point; nothing where it holds."""
    return outcome.problems if isinstance(outcome, ConfigError) else ()


def print_all(jobs: Sequence[Words], documents: Sequence[Mapping[str, Any]]) -> None:
    """One JSON document: a run's own, or the list of a sweep's, each with the values of its point."""
    from meshwright.report.print_json import print_json

    if len(jobs) == 1:
        print_json(documents[0])
    else:
        print_json([{"point": dict(words.swept), **of} for words, of in zip(jobs, documents, strict=True)])
