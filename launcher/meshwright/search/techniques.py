"""Techniques beside layouts in a search: which are tried together, and why the winner has each or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from meshwright.cost import estimate
from meshwright.cost.brought import brought
from meshwright.cost.memory import GIB
from meshwright.cost.techniques import TECHNIQUES, Technique, applied, of_backend, used
from meshwright.errors import ConfigError, Problem
from meshwright.resolver import layout, normalise, override, refusals
from meshwright.rules.requirements import lacking
from meshwright.search.rank import budget
from meshwright.search.space import Space
from meshwright.spec import Spec

__all__ = ["ALL", "asked_of", "bundles", "reasons", "with_techniques"]

ALL = "all"

Change = Mapping[str, Any]

_NOT_TOGETHER = ("shared_overlap", "expert_overlap", "wgrad_beside_dispatch")  # all use the time of the dispatch
_COSTLY = ("activation_offload", "optimizer_offload", "weight_parts", "early_release")  # which take time for memory
_TILES = ("tiled_loss", "tiled_mlp")
_ON_THE_HOST = ("host_optimizer", "super_offload", "zenflow")  # the same, of DeepSpeed


def asked_of(names: Sequence[str], backend: str = "megatron") -> tuple[Technique, ...]:
    """The techniques of ``backend`` that ``search.techniques`` names; of a bare word, all or none.

    Raises:
        ConfigError: for a name that is none of its.

    """
    known = {one.name: one for one in of_backend(backend)}
    if isinstance(names, str):
        names = (ALL,) if names == ALL else ()
    problems = [_unknown(i, name, known, backend) for i, name in enumerate(names) if name not in (*known, ALL)]
    if problems:
        raise ConfigError(problems)
    return tuple(known[name] for name in (known if ALL in names else dict.fromkeys(names)))


def with_techniques(around: Space, names: Sequence[str]) -> Space:
    """``around`` with every layout under the techniques that are named, too."""
    return replace(around, bundles=bundles(around.current, asked_of(names, around.current.backend.name)))


def bundles(spec: Spec, asked: Sequence[Technique]) -> tuple[Change, ...]:
    """Sets of changes to search under.

    None; all that cost no time, with either way of using the dispatch's; with each that trades time for memory besides.
    Nothing that needs what the nodes lack.
    """
    asked = [one for one in asked if _there(spec, one.on(spec))]
    costs = (*_COSTLY, *_ON_THE_HOST, *_TILES)
    free = [one for one in asked if one.name not in (*_NOT_TOGETHER, *costs)]
    either = [one for one in asked if one.name in _NOT_TOGETHER]
    costly = [one for one in asked if one.name in costs]
    sets = [[], free, *([*free, one] for one in (*either, *costly)), *([*free, a, b] for a in either for b in costly)]
    made = [{path: value for one in chosen for path, value in one.on(spec).items()} for chosen in sets]
    return tuple(
        change for i, change in enumerate(made) if change not in made[:i] and (not change or _there(spec, change))
    )


def _there(spec: Spec, change: Change) -> bool:
    """Whether the nodes have what the options of ``change`` need, together."""
    return not any(lacking(_with(spec, change), spec.backend.name))


def reasons(winner: Spec, asked: Sequence[Technique]) -> Iterator[str]:
    """What each technique brings to the winner, or would; a rule that refuses it says so."""
    yield from brought(winner)
    here, taken = estimate(layout(winner)), {one.name for one in used(winner)}
    for one in asked:
        change = one.on(winner)
        if one.name in taken or not change:
            continue
        with_it = applied(winner, change)
        if with_it is None:
            yield f"{one.name} is refused: {_refusal(winner, change)}"
            continue
        there = estimate(layout(normalise(with_it)))
        slower = float(there.step_time / here.step_time) - 1
        over = float(there.peak_memory) - budget(winner.cluster)
        fits = "" if over <= 0 else f", and {over / GIB:.1f} GiB more than fits"
        yield f"{one.name} is off: the step would take {abs(slower):.1%} {'longer' if slower >= 0 else 'less'}{fits}"


def _refusal(spec: Spec, change: Change) -> str:
    return refusals(_with(spec, change), spec.backend.name)[0].message


def _with(spec: Spec, change: Change) -> Spec:
    for path, value in change.items():
        spec = override(spec, path, value)
    return spec


def _unknown(i: int, name: str, known: Mapping[str, Technique], backend: str) -> Problem:
    path, rule = f"search.techniques[{i}]", "search.techniques"
    if name == "none":
        return Problem(path, "none is no technique among others; write search.techniques=none", rule)
    others = [one.backend for one in TECHNIQUES if one.name == name]
    if others:
        hint = f"leave it out, or search backend={others[0]}"
        return Problem(path, f"{name} is of backend={others[0]}, and backend={backend} is searched; {hint}", rule)
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {ALL}, {', '.join(known)}"
    return Problem(path, f"{name!r} is no technique of {backend}; {hint}", rule)
