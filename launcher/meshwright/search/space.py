"""What a search varies: every key of parallelism, the micro-batch, the number of GPUs; each free, pinned, or a set.

A key that the command line states is pinned to its value, or to its list of values. Every other key that a layout
consists of is free, whatever a recipe says; what a layout does not consist of (``cp_comm``, the overlaps) stays as
it is unless it is given as a set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from meshwright.compose import Run, load
from meshwright.compose.sets import WORLD, descend
from meshwright.errors import ConfigError, Problem
from meshwright.resolver import layout, normalise, override
from meshwright.rules import POSITIVE
from meshwright.search.strings import strings
from meshwright.spec import Parallelism, PipelineSplit, Spec, Training
from meshwright.spec.decode import decode
from meshwright.spec.frozen import dataclass

__all__ = ["COLUMNS", "Space", "Variant", "command_line", "space", "variants", "wrong"]

COLUMNS = {
    **{f"parallelism.{name}": name for name in ("tp", "sp", "pp", "vpp", "cp", "ep", "etp", "zero", "dp")},
    "training.micro_batch": "micro_batch",
    **{f"parallelism.pipeline_split.{name}": name for name in ("first", "last", "embedding", "loss")},
}
"""Paths whose values are columns of a table of layouts, and the names of the columns."""

_LAYOUT = "parallelism.pipeline_split.layout"

_FREE: Mapping[str, tuple[Any, ...]] = {
    "parallelism.recompute": ("none", "selective", "full"),
    "parallelism.recompute_method": (None,),
    "parallelism.recompute_layers": (None,),
    "parallelism.recompute_modules": (None,),
    "parallelism.microbatch_group": (None,),
    _LAYOUT: (None,),
}
"""Paths of other keys that a layout consists of, and the values tried where they are not stated; beside these, the
modules that the description recomputes, and layout strings where splits without are uneven."""


@dataclass(frozen=True)
class Space:
    """``current`` is the layout as described; ``stated`` the values given for each path.

    ``weak``: over a set of GPU counts the global batch grows with the GPUs, from what it is on the fewest.
    ``bundles``: changes beside the layout, under each of which all layouts are tried.
    """

    current: Spec
    stated: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    weak: bool = False
    bundles: tuple[Mapping[str, Any], ...] = ({},)


@dataclass(frozen=True)
class Variant:
    """All layouts that share everything but the columns of a table: one GPU count, one way to recompute, ..."""

    spec: Spec  # normalised; the columns' keys are at their defaults
    stated: Mapping[str, tuple[int, ...]]  # by column, as numbers


def space(spec: Spec, stated: Mapping[str, tuple[Any, ...]] | None = None, weak: bool = False) -> Space:
    """The space around ``spec``.

    Raises:
        ConfigError: where nothing says how large the global batch is, so that layouts could not be compared, a
            stated value has the wrong type, or a size or a number of GPUs is not positive.

    """
    stated = dict(stated or {})
    problems = [problem for path, values in stated.items() for v in values for problem in wrong(spec, path, v)]
    if spec.training.global_batch is None and spec.training.microbatches is None:
        missing = "not set; layouts are compared at one global batch, give it in sequences"
        problems.append(Problem("training.global_batch", missing, "search.batch"))
    if problems:
        raise ConfigError(problems)
    filled = normalise(spec)
    _refuse_empty(normalise(_blank(filled)))
    batch = replace(filled.training, microbatches=None)
    return Space(replace(filled, training=batch, parallelism=spec.parallelism), stated, weak)


def _refuse_empty(spec: Spec) -> None:
    """What a layout does not consist of must be positive, or there is nothing to propose."""
    numbers = layout(spec)
    problems = [rule.problem(numbers) for rule in POSITIVE if not rule.holds(numbers)]
    if problems:
        raise ConfigError(problems)


def variants(space: Space) -> Iterator[Variant]:
    """Every combination of what is no column: GPU counts, recomputation, and whatever was given as a set."""
    described = space.current.parallelism.recompute_modules
    modules = {"parallelism.recompute_modules": (None, described)} if described else {}
    paths = {**_FREE, **modules, **{p: v for p, v in space.stated.items() if p not in COLUMNS}}
    stated = {COLUMNS[p]: _numbers(v) for p, v in space.stated.items() if p in COLUMNS}
    for bundle, values in product(space.bundles, product(*paths.values())):
        spec = _blank(space.current)
        for path, value in (*bundle.items(), *zip(paths, values, strict=True)):
            spec = _with_gpus(spec, path, value) if path in WORLD else override(spec, path, value)
        if _senseless(spec.parallelism):
            continue
        if space.weak:
            spec = _grown(spec, min(v.cluster.gpus or 1 for v in _worlds(space)))
        variant = Variant(normalise(spec), stated)
        yield variant
        if _LAYOUT not in space.stated:
            yield from _with_strings(variant)


def _with_strings(variant: Variant) -> Iterator[Variant]:
    """The same with layout strings, each for its number of stages and chunks."""
    for pp, vpp, written in strings(variant.spec, variant.stated):
        yield Variant(override(variant.spec, _LAYOUT, written), {**variant.stated, "pp": (pp,), "vpp": (vpp,)})


def command_line(overrides: Sequence[str], config_dir: str | Path | None = None) -> tuple[Run, dict[str, Any]]:
    """The run that the overrides describe, and the values they state for each searched path."""
    run = load(overrides, config_dir, search=True)
    assert run.open is not None
    return run, dict(run.open)


_DEGREES = ("tp", "pp", "vpp", "cp", "ep", "etp", "dp", "micro_batch")
_COUNTS = (*WORLD, *(path for path, name in COLUMNS.items() if name in _DEGREES))


def wrong(spec: Spec, path: str, value: Any) -> Iterator[Problem]:
    """The problems of one stated value, by the decoder's own judgement; of what is proposed, a count is positive."""
    section, *names = path.split(".")
    data: Any = asdict(getattr(spec, section))
    holder = descend(data, names[:-1]) if names[:-1] else data
    if holder is None:
        return
    holder[names[-1]] = value
    kind: Any = {"parallelism": Parallelism, "training": Training}.get(section, type(spec.cluster))
    try:
        decode(kind, data, section)
    except ConfigError as error:
        yield from error.problems
    else:
        if path in _COUNTS and value is not None and value < 1:
            yield Problem(path, f"{value} is not a positive count; give at least 1", "search.count")


def _blank(spec: Spec) -> Spec:
    """``spec`` with the keys of a layout at their defaults."""
    p = replace(
        spec.parallelism,
        **{name: getattr(Parallelism(), name) for name in ("tp", "sp", "pp", "vpp", "cp", "ep", "etp", "dp", "zero")},
        pipeline_split=PipelineSplit(),
    )
    return replace(spec, parallelism=p, training=replace(spec.training, micro_batch=1))


def _with_gpus(spec: Spec, path: str, value: int) -> Spec:
    """``spec`` on another number of GPUs or nodes."""
    gpus = value if path == "cluster.gpus" else value * spec.cluster.gpus_per_node
    return replace(spec, cluster=replace(spec.cluster, gpus=gpus, nodes=None))


def _worlds(space: Space) -> Iterator[Spec]:
    """The run on each of the stated numbers of GPUs."""
    stated = [(path, value) for path in WORLD for value in space.stated.get(path, ())]
    yield from (_with_gpus(space.current, path, value) for path, value in stated) if stated else (space.current,)


def _grown(spec: Spec, fewest: int) -> Spec:
    """``spec`` with the batch that ``fewest`` GPUs have, times what there are more."""
    batch, gpus = spec.training.global_batch, spec.cluster.gpus
    assert batch is not None
    assert gpus is not None
    return replace(spec, training=replace(spec.training, global_batch=batch * gpus // fewest, ramp=()))


def _senseless(p: Parallelism) -> bool:
    """How to recompute belongs to the kind of recomputation: other combinations are no layouts."""
    full = p.recompute_method is not None or p.recompute_layers is not None
    return (full and p.recompute != "full") or (p.recompute_modules is not None and p.recompute != "selective")


def _numbers(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(v or 0) for v in values)
