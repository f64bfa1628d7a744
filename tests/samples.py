"""A part of the library of constant size, so that the time of the tests does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from zlib import crc32

from meshwright.library import files as library
from meshwright.resolver import holds, override
from meshwright.spec import Spec

__all__ = ["VARIANTS", "sample", "stages_for"]

VARIANTS = [(name, variant) for name in library.names() for variant in library.recipe(name).variants]
"""Every recipe with every variant of it."""


def sample[T](of: Iterable[T], size: int) -> list[T]:
    """``size`` of them, always the same ones: those whose names hash lowest. `make test-all` takes all."""
    every = list(of)
    chosen = set(sorted(range(len(every)), key=lambda i: crc32(str(every[i]).encode()))[:size])
    return [one for i, one in enumerate(every) if i in chosen]


@cache
def _stages() -> Mapping[str, Spec]:
    runs = ((name, library.run(name)) for name in library.names())
    return {f"{name}.{one.stage}" if one.stage else name: one for name, run in runs for one in run.stages}


@cache
def stages_for(backend: str) -> Mapping[str, Spec]:
    """By name, the stages of every recipe that ``backend`` can run."""
    found = {name: override(one, "backend.name", backend) for name, one in _stages().items()}
    return {name: one for name, one in found.items() if holds(one, backend)}
