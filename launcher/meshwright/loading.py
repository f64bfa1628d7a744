"""From words to a Run whose every layout is decided: composed, and searched where ``parallelism=auto`` asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meshwright import compose
from meshwright.compose.run import Run

__all__ = ["load"]


def load(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Run:
    """The Run that Hydra ``overrides`` describe, with the options of the folder ``config_dir`` beside ours.

    Raises:
        ConfigError: with one problem for each thing wrong with the words, the files or the values, or where
            ``parallelism=auto`` finds no layout that fits.
        TypeError: where ``overrides`` is no list of words.

    """
    described = compose.load(overrides, config_dir)
    if described.open is None:
        return described
    from meshwright.search.auto import laid_out

    return laid_out(described)
