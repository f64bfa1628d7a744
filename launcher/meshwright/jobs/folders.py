"""Folders that hold one run each, and nothing of anybody else's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from meshwright.errors import ConfigError, Problem

__all__ = ["refuse_foreign", "usable", "write"]

MARKER = ".meshwright"


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Where the file system refuses, the user named the wrong folder."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {folder}: {error.strerror}; name a folder that can be written"
        raise ConfigError([Problem("runs", message)]) from None


def refuse_foreign(folder: Path, mine: str) -> None:
    """Refuse a folder that holds anything but the run whose identity is ``mine``.

    Raises:
        ConfigError: where it does, or is a file.

    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError([Problem("runs", f"{there} is a file; name a folder")])
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    marker = folder / MARKER
    if not marker.is_file() or marker.read_text().strip() != mine:
        raise ConfigError([Problem("runs", f"{folder} holds something else; name an empty folder")])


def write(folder: Path, texts: Mapping[str, str], mine: str) -> None:
    """Write ``texts`` by their paths in ``folder``, which then belongs to the run ``mine``; scripts can be run."""
    for name, text in {MARKER: f"{mine}\n", **texts}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.suffix in (".sh", ".sbatch"):
            path.chmod(0o755)
