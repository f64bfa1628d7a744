"""What becomes of each key of a foreign file: nothing is dropped silently."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Literal

from meshwright.errors import Problem
from meshwright.spec.frozen import dataclass

__all__ = [
    "Ask",
    "Fate",
    "Found",
    "Given",
    "Imported",
    "Place",
    "Remark",
    "Source",
    "answers",
    "is_secret",
    "shown",
    "together",
]

Fate = Literal["mapped", "default", "passed", "dropped"]
"""Carried by a key of ours; what the source would take anyway; passed through as it is; not carried, with a reason."""

LONGEST = 60  # characters of a value that are shown


@dataclass(frozen=True)
class Place:
    """Where a key stands. ``line`` counts from 1; 0: the whole file."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        """As editors and compilers write it."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Given:
    """A key as the source writes it, its value and its place."""

    key: str
    value: Any
    place: Place


@dataclass(frozen=True)
class Found:
    """What became of a key. ``path``: the key of ours that carries it; ``reason``: why it is not carried."""

    key: str
    value: str
    place: Place
    fate: Fate
    path: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Ask:
    """What the source leaves open. ``path``: the key of ours that would answer, ``problem`` how it reads.

    ``given``: the key that takes what only the outside knows.
    """

    path: str
    problem: Problem
    given: Given | None = None


@dataclass(frozen=True)
class Remark:
    """What the source says that its own framework would refuse (``error``), or change or ignore (``warning``)."""

    level: Literal["error", "warning"]
    rule: str
    message: str
    place: Place

    def __str__(self) -> str:
        """One line."""
        return f"{self.place}: {self.message} [{self.rule}]"


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one reader makes of one file: values by our dotted paths, and the account of its keys."""

    kind: str  # what it is, in words
    values: Mapping[str, Any] = field(default_factory=dict)
    found: tuple[Found, ...] = ()
    asks: tuple[Ask, ...] = ()
    remarks: tuple[Remark, ...] = ()
    autos: Mapping[str, Given] = field(default_factory=dict)  # by our path: keys that another file is to fill in
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by open name: what it is compared with


@dataclass(frozen=True, kw_only=True)
class Imported:
    """All files of an import together."""

    files: tuple[str, ...]
    kinds: tuple[str, ...]
    values: Mapping[str, Any]
    found: tuple[Found, ...]
    asks: tuple[Ask, ...]
    remarks: tuple[Remark, ...]
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def place(self, path: str) -> Place:
        """Where the source says what decides our ``path``, or the nearest thing above it; else its first file."""
        carried = [one for one in self.found if one.fate in ("mapped", "default") and one.path]
        while path:
            for one in carried:
                if one.path == path or one.path.startswith(f"{path}."):
                    return one.place
            path = path.rpartition(".")[0]
        return Place(self.files[0])


def shown(value: object) -> str:
    """A value on one line, long ones cut."""
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def together(sources: Iterable[Source], files: tuple[str, ...]) -> Imported:
    """One import of several sources; a later one's values win."""
    parts = list(sources)
    values: dict[str, Any] = {}
    for part in parts:
        values |= part.values
    return Imported(
        files=files,
        kinds=tuple(part.kind for part in parts),
        values=values,
        found=tuple(_covered(one) for part in parts for one in part.found),
        asks=tuple(one for part in parts for one in part.asks if not _answered(one.path, values)),
        remarks=(*(one for part in parts for one in part.remarks), *_unfilled(parts)),
        choices={name: held for part in parts for name, held in part.choices.items()},
    )


def is_secret(key: str) -> bool:
    """Whether a key's value belongs in no report and no recipe."""
    return _SECRET.search(key) is not None


_SECRET = re.compile(r"(api|wandb|access|private)[_-]?key|secret|passw|(hf|hub|access|auth|gh)[_-]?(\w+_)?token$", re.I)


def _covered(one: Found) -> Found:
    return replace(one, value="(hidden)") if is_secret(one.key) else one


def _answered(path: str, values: Mapping[str, Any]) -> bool:
    return path in values or any(answers(known, path) for known in values)


def answers(key: str, path: str) -> bool:
    """Whether a key below ``path`` answers the question for it: which model it is, only its size or its files do."""
    return key in ("model.layers", "model.path") if path == "model" else key.startswith(f"{path}.")


def _unfilled(parts: Sequence[Source]) -> Iterator[Remark]:
    """``auto`` is filled in by the Trainer, or accelerate; DeepSpeed alone takes its defaults."""
    if any(part.kind.startswith(("Hugging Face Trainer", "accelerate")) for part in parts):
        return
    for part in parts:
        for one in part.autos.values():
            message = (
                f'"{one.key}": "auto" is a word of Hugging Face\'s Trainer and accelerate: DeepSpeed alone takes its '
                f"default, or stops; give their file, too, or a value"
            )
            yield Remark("error", "deepspeed.auto", message, one.place)
