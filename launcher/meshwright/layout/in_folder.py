"""Words of a command line that name files of the run folder, wherever it is moved."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FOLDER", "in_folder"]

FOLDER = "$folder"
"""What stands for it: launch.sh sets the variable for programs of others, ours puts the path in."""


def in_folder(words: Sequence[str], folder: str) -> list[str]:
    """``words`` with the run folder's own path."""
    return [f"{folder}{word.removeprefix(FOLDER)}" if word.startswith(f"{FOLDER}/") else word for word in words]
