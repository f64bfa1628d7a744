"""What recipes are looked up by: model, GPU, technique, disclosure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from meshwright.compose import Listing, Run
from meshwright.errors import ConfigError, Problem
from meshwright.library.files import Disclosure, disclosure
from meshwright.library.recipe import Recipe
from meshwright.spec import Model, Spec
from meshwright.spec.frozen import dataclass
from meshwright.spec.gpu_names import cluster_with

__all__ = ["LONG", "Traits", "listed", "traits"]

LONG = 32_768
"""Tokens from which on a sequence counts as long."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Of one recipe, over all its variants and stages."""

    models: frozenset[str]
    kinds: frozenset[str]  # of these models
    gpus: frozenset[str]
    clusters: frozenset[str]
    techniques: frozenset[str]
    disclosure: Disclosure


def traits(recipe: Recipe, runs: Sequence[Run]) -> Traits:
    """What the recipe is looked up by; ``runs`` has one run of each variant."""
    specs = [spec for run in runs for spec in run.stages]
    return Traits(
        models=frozenset(spec.model.name for spec in specs),
        kinds=frozenset(kind for spec in specs for kind in _kinds(spec.model)),
        gpus=frozenset(spec.cluster.accelerator.name for spec in specs),
        clusters=frozenset(spec.cluster.name for spec in specs),
        techniques=frozenset(technique for spec in specs for technique in _techniques(spec)),
        disclosure=disclosure(recipe),
    )


def listed(known: Mapping[str, Traits], wanted: Listing) -> list[str]:
    """The names that have everything that is wanted, in their order.

    Raises:
        ConfigError: where no recipe has one of the traits, with those that there are.

    """
    asked = [(key, value) for key in _HAS if (value := getattr(wanted, key)) is not None]
    problems = [_nobody(key, value, known.values()) for key, value in asked if not _any(key, value, known.values())]
    if problems:
        raise ConfigError(problems)
    return [name for name, one in known.items() if all(_HAS[key](one, value) for key, value in asked)]


def _has_gpu(one: Traits, gpu: str) -> bool:
    part = gpu.lower()
    named = cluster_with(gpu) in one.clusters
    return named or any(part in name.lower() for name in (*one.clusters, *one.gpus))


def _has_model(one: Traits, model: str) -> bool:
    part = model.lower().replace("-", "_")
    return part in one.kinds or any(part in name for name in one.models)


_HAS: Mapping[str, Callable[[Traits, str], bool]] = {
    "gpu": _has_gpu,
    "model": _has_model,
    "technique": lambda one, technique: technique.lower() in one.techniques,
    "published": lambda one, published: one.disclosure == published,
}


def _any(key: str, value: str, known: Iterable[Traits]) -> bool:
    return any(_HAS[key](one, value) for one in known)


def _nobody(key: str, value: str, known: Iterable[Traits]) -> Problem:
    fields = {"gpu": "gpus", "model": "models", "technique": "techniques"}
    of = {name for one in known for name in ([one.disclosure] if key == "published" else getattr(one, fields[key]))}
    return Problem(f"recipes.{key}", f"no recipe has {value!r}; there are {', '.join(sorted(of))}", "recipes.listed")


def _kinds(model: Model) -> Iterator[str]:
    yield model.attention
    yield "moe" if model.moe else "dense"


def _techniques(spec: Spec) -> Iterator[str]:
    p, training = spec.parallelism, spec.training
    yield from (name for name in ("tp", "pp", "vpp", "cp", "ep") if getattr(p, name) > 1)
    yield from ["etp"] * (spec.model.moe is not None and p.etp > 1)
    yield from ["sp"] * p.sp
    yield from [f"zero{p.zero}"] * (p.zero > 0)
    yield from ["recompute"] * (p.recompute != "none")
    yield from ["long"] * (training.sequence >= LONG)
    yield from ["ramp"] * bool(training.ramp)
    yield from ["muon"] * (training.optimizer.name == "muon")
    yield "fp8" if training.precision.startswith("fp8") else training.precision
