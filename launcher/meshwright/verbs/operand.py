"""A run as one argument names it: words for Hydra (a recipe among them), or a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshwright.compare import Side, Stage
from meshwright.compose import Run
from meshwright.errors import ConfigError, Problem
from meshwright.imports.read import imported
from meshwright.imports.run import described
from meshwright.jobs.paths import absolute
from meshwright.jobs.transition import joined
from meshwright.jobs.written_spec import read_spec
from meshwright.library.recipe import Provenance, provenance_of
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.spec import Spec
from meshwright.spec.decode import decode

__all__ = ["READERS", "read"]


def read(text: str, config_dir: str | None = None) -> Side:
    """The run that ``text`` names.

    Raises:
        ConfigError: where it names none, or one that does not hold.

    """
    path = Path(text)
    for reads, reader in READERS:
        if _is_path(text) and reads(path):
            return reader(path)
    return _words(text, config_dir)


def _folder(folder: Path) -> Side:
    """A run folder, or one that holds the run folders of a recipe's stages."""
    found = [folder] if (folder / "config.yaml").is_file() else sorted(path.parent for path in _inner(folder))
    if not found:
        raise ConfigError(f"{folder} holds no run; give a folder that compile or launch wrote")
    return Side(str(folder), tuple(Stage(read_spec(one), folder=one) for one in found))


def _file(path: Path) -> Side:
    """A file of another program, with the places of its keys."""
    found = imported([path])
    carried = {one.path: str(one.place) for one in found.found if one.fate == "mapped" and one.path}
    return Side(str(path), tuple(Stage(spec, carried.get) for spec in described(found).stages))


READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Side]], ...] = (
    (Path.is_dir, _folder),
    (Path.is_file, _file),
)
"""Which paths are read, and how: a file of another program becomes a Side here."""


def _is_path(text: str) -> bool:
    """Whether ``text`` is meant as a path: a word for Hydra has an equals sign, and no path before that."""
    return (
        "\0" not in text
        and text != ""
        and ("=" not in text or text.startswith(("/", "./", "../")))
        and _exists(Path(text))
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than a path may be
        return False


def _inner(folder: Path) -> Sequence[Path]:
    return list(folder.glob("*/config.yaml"))


def _words(text: str, config_dir: str | None) -> Side:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}; quote it as a shell does") from None
    strays = [word for word in words if "=" not in word and not word.startswith("~")]
    if strays or not words:
        raise ConfigError([Problem("", _stray(word)) for word in strays or [text]])
    run = load(words, config_dir)
    plans = joined([resolve(absolute(spec)) for spec in run.stages])
    return Side(text, tuple(Stage(plan.spec, _origin(run, plan.spec, words)) for plan in plans))


def _stray(word: str) -> str:
    from meshwright.library import files as library

    hint = f"did you mean recipe={word}?" if word in library.names() else "give a run folder, or words key=value"
    return f"{word!r}: no such folder, and no word; {hint}"


def _origin(run: Run, spec: Spec, words: Sequence[str]) -> Callable[[str], str | None]:
    """Where a field's value comes from: the words themselves, else the stage's record, else the recipe's."""
    said = {word.lstrip("+~").partition("=")[0] for word in words}
    stage: Mapping[str, Any] = (run.composed.get("stages") or {}).get(spec.stage) or {}
    records = [_provenance(of) for of in (stage.get("provenance"), run.provenance)]

    def origin(path: str) -> str | None:
        if _covers(said, path):
            return "said here"
        entries = filter(None, (provenance_of(path, record) for record in records))
        return next(map(_shown, entries), None)

    return origin


def _provenance(data: object) -> Mapping[str, Provenance]:
    if not isinstance(data, Mapping):
        return {}
    return {str(path): decode(Provenance, entry, f"provenance.{path}") for path, entry in data.items()}


def _covers(said: set[str], path: str) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:i]) in said for i in range(1, len(parts) + 1))


def _shown(entry: Provenance) -> str:
    where = ", ".join(filter(None, (entry.source, entry.where)))
    return f"{entry.status} ({where})" if where else entry.status
