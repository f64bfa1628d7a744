"""A file that a user names for us to write: checked before the work begins, not after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from meshwright.errors import ConfigError, Problem

__all__ = ["output_file", "unwritable"]


def output_file(key: str, name: str | None, suffixes: tuple[str, ...], stage: str | None = None) -> Path | None:
    """The file ``name``, or the one beside it that is named for ``stage``; None where none is asked for.

    Raises:
        ConfigError: on ``key``, where it cannot be written.

    """
    if name is None:
        return None
    path = _of_stage(Path(name), stage, suffixes) if stage else Path(name)
    problems = list(_problems(key, path, suffixes))
    if problems:
        raise ConfigError(problems)
    return path


def unwritable(key: str, error: str) -> Problem:
    """What a file system's refusal means to the user."""
    return Problem(key, f"cannot write: {error}; name another file", "output.file")


def _of_stage(path: Path, stage: str, suffixes: tuple[str, ...]) -> Path:
    ending = max((one for one in suffixes if path.name.endswith(one)), key=len, default="")
    return path.with_name(f"{path.name.removesuffix(ending)}-{stage}{ending}")


def _problems(key: str, path: Path, suffixes: tuple[str, ...]) -> Iterator[Problem]:
    if not path.name.endswith(suffixes):
        yield Problem(key, f"{path} ends neither in {' nor in '.join(suffixes)}; name such a file", "output.file")
    elif not path.parent.is_dir():
        yield Problem(key, f"there is no folder {path.parent}; make it, or name another file", "output.file")
    elif error := _refusal(path):
        yield unwritable(key, error)


def _refusal(path: Path) -> str:
    """Why nothing can be written there: only trying tells."""
    new = not path.exists()
    try:
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        return str(error)
    return ""
