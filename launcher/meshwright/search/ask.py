"""A search asked from Python, with the words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meshwright.search.auto import goal_of, nothing_fits
from meshwright.search.question import Result, answer
from meshwright.search.space import command_line, space
from meshwright.search.techniques import with_techniques

__all__ = ["search"]


def search(overrides: Sequence[str], config_dir: str | Path | None = None) -> tuple[Result, ...]:
    """The layouts of each stage of a run, ranked by step time or by ``search.objective``; a set of values is searched.

    ``ranking.best`` has at most ``search.top`` layouts, the best first; seconds of a step, bytes of the fullest rank.

    Raises:
        ConfigError: with everything wrong with the words, or where no layout fits.

    """
    asked, stated = command_line(overrides, config_dir)
    weak = asked.options.search.scaling == "weak"
    goal, why = goal_of(asked), asked.options.why
    spaces = [with_techniques(space(s, stated, weak), asked.options.search.techniques) for s in asked.stages]
    results = tuple(answer(around, goal, why) for around in spaces)
    for result in results:
        if result.ranking.winner is None:
            raise nothing_fits(result.space, result.ranking)
    return results
