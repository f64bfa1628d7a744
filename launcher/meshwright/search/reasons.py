"""Why a layout is not chosen: the rule it breaks, the bytes it is over, or the seconds it is slower and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from meshwright.compose.sets import values_of
from meshwright.cost.memory import GIB
from meshwright.errors import ConfigError, Problem
from meshwright.resolver import override, refusals
from meshwright.search.candidate import Candidate, differences
from meshwright.search.exact import search
from meshwright.search.rank import Ranking, budget
from meshwright.search.space import Space, wrong
from meshwright.spec import Parallelism, PipelineSplit, Spec
from meshwright.spec.frozen import dataclass

__all__ = ["PARTS", "Answer", "Comparison", "asked_of", "compare", "over", "slower", "why"]

PARTS = {
    "compute": "computing",
    "recompute": "recomputing activations",
    "tensor": "exposed tensor-parallel communication",
    "expert": "exposed expert communication",
    "context": "exposed context-parallel communication",
    "pipeline": "exposed sends between stages",
    "bubble": "pipeline bubble",
    "data": "exposed gradient and parameter communication",
    "optimizer": "optimizer",
    "offload": "offload",
}
"""Where a step's seconds go, in words."""


@dataclass(frozen=True)
class Comparison:
    """What changes from one layout to another: keys, share of the step time, bytes, seconds of each part."""

    changes: tuple[tuple[str, Any, Any], ...]
    step_time: float  # relative: -0.11 is 11 % shorter
    peak_memory: float
    parts: Mapping[str, float]

    def __str__(self) -> str:
        """One line, as in ``change pp 16→8, vpp 1→4: −11 % step time, +6.0 GiB``."""
        keys = ", ".join(f"{name} {_word(old)}→{_word(new)}" for name, old, new in self.changes)
        effect = f"{_signed(self.step_time * 100, 1)} % step time, {_signed(self.peak_memory / GIB, 1)} GiB"
        return f"change {keys}: {effect}" if keys else "the same layout"


@dataclass(frozen=True)
class Answer:
    """Why the layouts with ``asked`` values do not win: ``verdict`` is excluded, memory, slower or chosen.

    ``candidate`` is the best of them, or the leanest where none fits.
    """

    asked: Mapping[str, Any]
    verdict: str
    reasons: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    candidate: Candidate | None = None
    comparison: Comparison | None = None
    points: int = 0


def compare(old: Candidate, new: Candidate) -> Comparison:
    """What a change from ``old`` to ``new`` brings."""
    return Comparison(
        changes=tuple(differences(old.spec, new.spec)),
        step_time=new.step_time / old.step_time - 1,
        peak_memory=new.peak_memory - old.peak_memory,
        parts={name: new.parts[name] - old.parts[name] for name in new.parts},
    )


def why(space: Space, ranking: Ranking, question: Mapping[str, Any]) -> Answer:
    """Why the layouts with the values in ``question`` (``{"tp": 4, "pp": 8}``) are not the winner.

    Raises:
        ConfigError: where a key of the question is none of a layout, or a value none of its key.

    """
    paths = asked_of(space.current, question)
    inside = search(replace(space, stated={**space.stated, **paths}), replace(ranking.goal, top=1))
    asked = {path: values[0] if len(values) == 1 else values for path, values in paths.items()}
    if inside.valid == 0:
        return _excluded(space, ranking, asked, inside)
    if not inside.best:
        leanest = min(inside.choices.values(), key=lambda c: c.peak_memory)
        return Answer(asked, "memory", (over(leanest),), candidate=leanest, points=inside.valid)
    best, winner = inside.best[0], ranking.winner
    if winner is None or (best.columns == winner.columns and best.spec == winner.spec):
        return Answer(asked, "chosen", ("these values are the winner's",), candidate=best, points=inside.valid)
    return Answer(asked, "slower", tuple(slower(winner, best)), (), best, compare(winner, best), inside.valid)


def over(candidate: Candidate) -> str:
    """How far a layout is from fitting."""
    limit = budget(candidate.spec.cluster)
    needed = f"{candidate.peak_memory / GIB:.1f} GiB of {limit / GIB:.1f} GiB"
    return f"does not fit: {needed}, {(candidate.peak_memory - limit) / GIB:.1f} GiB over"


def slower(winner: Candidate, candidate: Candidate) -> Iterator[str]:
    """By how much ``candidate`` loses, and the parts of the step where most of it is lost."""
    difference = candidate.step_time - winner.step_time
    yield f"{_signed(difference, 2)} s a step ({_signed(100 * difference / winner.step_time, 1)} %)"
    lost = {name: candidate.parts[name] - winner.parts[name] for name in PARTS}
    for name in sorted(lost, key=lambda n: -lost[n])[:3]:
        if lost[name] > 0.1 * max(difference, 1e-9):
            yield f"{_signed(lost[name], 2)} s {PARTS[name]}"
    if difference <= 0:
        spare = (candidate.peak_memory - winner.peak_memory) / GIB
        yield f"{_signed(spare, 1)} GiB, {candidate.gpus} GPUs"


def asked_of(spec: Spec, question: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Short names of a question (``tp``, ``micro_batch``, ``first``) as paths, and values as sets of them.

    Raises:
        ConfigError: as for ``why``.

    """
    paths = {name: _path(name) for name in question}
    sets = {name: values_of(path, question[name]) for name, path in paths.items() if path}
    problems = [
        Problem(f"why.{name}", f"no key of a layout; there are {', '.join(_known())}", "why")
        for name, path in paths.items()
        if not path
    ]
    for name, values in sets.items():
        problems += [Problem(f"why.{name}", p.message, "why") for v in values for p in _refused(spec, paths[name], v)]
    if problems:
        raise ConfigError(problems)
    return {paths[name]: values for name, values in sets.items()}


def _refused(spec: Spec, path: str, value: Any) -> Iterator[Problem]:
    if value == [] or (value is None and path in ("parallelism.dp", "cluster.gpus")):
        yield Problem(path, f"{_word(value)} is no value of it; give one, or a list of them", "why")
    else:
        yield from wrong(spec, path, value)


def _path(name: str) -> str:
    """The path of a short or a whole name; empty where there is none."""
    known = _known()
    return known.get(name, name if name in known.values() else "")


def _known() -> dict[str, str]:
    """Paths by short names."""
    known = {name: f"parallelism.{name}" for name in Parallelism.__dataclass_fields__ if name != "pipeline_split"}
    known |= {name: f"parallelism.pipeline_split.{name}" for name in PipelineSplit.__dataclass_fields__}
    return known | {"micro_batch": "training.micro_batch", "gpus": "cluster.gpus"}


def _excluded(space: Space, ranking: Ranking, asked: Mapping[str, Any], inside: Ranking) -> Answer:
    """No layout with these values is valid: what is wrong with the winner once it has them, and the rules by count."""
    start: Spec = ranking.winner.spec if ranking.winner else space.current
    spec = override(start, "parallelism.dp", None)
    for path, value in asked.items():
        spec = override(spec, path, value[0] if isinstance(value, tuple) else value)
    problems = tuple(refusals(spec, spec.backend.name))
    by_count = sorted(inside.excluded.values(), key=lambda e: -e.points)
    reasons = [
        f"{e.rule.id} excludes {e.points:,} of {inside.points:,} layouts with these values" for e in by_count[:3]
    ]
    return Answer(asked, "excluded", tuple(reasons), problems, points=inside.points)


def _word(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _signed(value: float, digits: int) -> str:
    """With a real minus sign, as in print."""
    return f"{value:+.{digits}f}".replace("-", "−")
