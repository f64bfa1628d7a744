"""A part of the library of constant size, so that the time of the tests does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from meshwright.library import files as library

__all__ = ["VARIANTS", "sample"]

VARIANTS = [(name, variant) for name in library.names() for variant in library.recipe(name).variants]
"""Every recipe with every variant of it."""


def sample[T](of: Iterable[T], size: int) -> list[T]:
    """``size`` of them, always the same ones: those whose names hash lowest. `make test-all` takes all."""
    every = list(of)
    chosen = set(sorted(range(len(every)), key=lambda i: crc32(str(every[i]).encode()))[:size])
    return [one for i, one in enumerate(every) if i in chosen]
