"""What differs between subjects, before anything they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from meshwright.library.recipe import leaves
from meshwright.report.page.subject import Subject
from meshwright.spec.frozen import dataclass

__all__ = ["Difference", "differences", "parts", "short_titles"]


@dataclass(frozen=True)
class Difference:
    """A key with its value in each subject; None where it has none."""

    path: str
    values: tuple[Any, ...]


def differences(subjects: Sequence[Subject]) -> list[Difference]:
    """The keys whose values differ, layouts before clusters, training and models."""
    flat = [_flat(one) for one in subjects]
    paths = sorted(dict.fromkeys(path for one in flat for path in one), key=_rank)
    found = (Difference(path, tuple(one.get(path) for one in flat)) for path in paths)
    return [one for one in found if any(value != one.values[0] for value in one.values)]


_GROUPS = ("parallelism", "training", "cluster", "backend", "model", "launch")


def _rank(path: str) -> int:
    return _GROUPS.index(path.split(".")[0])


def _flat(one: Subject) -> Mapping[str, Any]:
    spec = asdict(one.plan.spec)
    return dict(leaves({group: spec[group] for group in _GROUPS}))


def short_titles(subjects: Sequence[Subject]) -> list[str]:
    """The titles without the names that all of them begin with: a recipe's stages by their own names."""
    names = [one.title.split(" · ") for one in subjects]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == names[0][shared] for one in names):
        shared += 1
    return [" · ".join(one[shared:]) for one in names]


def parts(subjects: Sequence[Subject]) -> Iterator[dict[str, Any]]:
    """Seconds of each subject's step by what they go to, for the chart that sets them side by side."""
    for i, (one, title) in enumerate(zip(subjects, short_titles(subjects), strict=True)):
        for part, seconds in one.summary["cost"]["step_parts_s"].items():
            yield {"subject": i, "title": title, "part": part, "seconds": seconds}
