"""What a recipe says about itself: its sources, where every value comes from, and what its authors claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, Literal, get_args

from meshwright.errors import ConfigError, Problem
from meshwright.library.published import Spared, Status
from meshwright.spec.decode import decode, join
from meshwright.spec.frozen import dataclass

__all__ = [
    "OF_THE_RUN",
    "About",
    "Claim",
    "Metric",
    "Provenance",
    "Recipe",
    "Record",
    "Source",
    "leaves",
    "provenance_of",
]

Metric = Literal[
    "active_parameters",  # used by one token
    "causal_tflops_per_gpu",  # model FLOPs, attention counted half because it is causal
    "dp",
    "gpu_hours",  # of the whole run
    "gpu_hours_per_trillion",  # tokens
    "hardware_tflops_per_gpu",  # recomputed operations counted, too
    "hfu",
    "mfu",
    "parameters",
    "step_seconds",
    "tflops_per_gpu",  # model FLOPs
    "tokens_per_s_per_gpu",
    "tokens_per_step",
    "total_tokens",  # of the whole run
    "train_flops",  # of the whole run
    "trained_tokens",  # what the run reached, where it differs from its plan
]

OF_THE_RUN: frozenset[Metric] = frozenset(
    {
        "active_parameters",
        "gpu_hours",
        "gpu_hours_per_trillion",
        "parameters",
        "total_tokens",
        "train_flops",
        "trained_tokens",
    }
)
"""Claims about a run as a whole; every other one is about one layout, so about a stage or variant if there is one."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A publication, or ``owner/repository@commit:path``."""

    ref: str
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a value comes from.

    published: ``source`` and ``where`` say who printed it. derived: ``why`` is the arithmetic. inferred: ``why`` is
    the reason for the choice. ours: nobody's but ours. ``published`` keeps what was printed where that could not be
    realised as such; ``why`` then says why not.
    """

    status: Status
    source: str | None = None
    where: str | None = None
    why: str | None = None
    published: object | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A result the authors publish; ``note`` says what it counts where that is not plain."""

    value: float
    source: str
    where: str
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class About:
    """A recipe's title, its sources by the ids that provenance uses, and what differs from the authors' framework."""

    title: str
    authors_framework: str
    sources: Mapping[str, Source]
    differences: tuple[str, ...] = ()
    spared: tuple[Spared, ...] = ()
    claims: Mapping[str, Claim] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the run itself, one variant or one stage of it states: values by dotted path, their sources, its claims."""

    stage: str | None
    variant: str | None
    values: Mapping[str, object]
    provenance: Mapping[str, Provenance]
    claims: Mapping[str, Claim]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe file. ``records`` starts with the run itself; its variants and its stages follow in order."""

    name: str
    about: About
    records: tuple[Record, ...]

    @staticmethod
    def read(name: str, data: Mapping[str, Any]) -> Recipe:
        """Decode the plain content of a recipe file.

        Raises:
            ConfigError: with one problem for each value that is wrong, unsourced or claimed without a source.

        """
        about = decode(About, data.get("about", {}), join(name, "about"))
        records = [_record(name, {**data, "about": {"claims": data["about"].get("claims", {})}})]
        for variant, values in (data.get("variants") or {}).items():
            records.append(_record(join(name, variant), values, variant=variant))
        for stage, values in (data.get("stages") or {}).items():
            records.append(_record(join(name, stage), values, stage=stage))
        recipe = Recipe(name=name, about=about, records=tuple(records))
        problems = list(_problems(recipe))
        if problems:
            raise ConfigError(problems)
        return recipe

    @property
    def variants(self) -> tuple[str | None, ...]:
        """The variants' names in order; a recipe without them is one nameless variant."""
        return tuple(record.variant for record in self.records if record.variant) or (None,)


def leaves(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    """Every value of nested mappings with its dotted path."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, join(path, key))
        else:
            yield join(path, key), value


def provenance_of(path: str, provenance: Mapping[str, Provenance]) -> Provenance | None:
    """The entry for ``path`` or for the nearest mapping it lies in; None where there is none."""
    while path and path not in provenance:
        path = path.rpartition(".")[0]
    return provenance.get(path)


@dataclass(frozen=True, kw_only=True)
class _Said:
    claims: Mapping[str, Claim] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Sourced:
    provenance: Mapping[str, Provenance] = field(default_factory=dict)


def _record(root: str, data: Mapping[str, Any], variant: str | None = None, stage: str | None = None) -> Record:
    """One record; the groups a recipe chooses (``override /model: x``) are values as well."""
    said = ("about", "provenance", "stages", "variants", "defaults", "name")
    stated = {key: value for key, value in data.items() if key not in said}
    groups = {key.rpartition("/")[2]: value for choice in data.get("defaults", ()) for key, value in _items(choice)}
    return Record(
        stage=stage,
        variant=variant,
        values={**groups, **dict(leaves(stated))},
        provenance=decode(_Sourced, {"provenance": data.get("provenance", {})}, root).provenance,
        claims=decode(_Said, data.get("about", {}), join(root, "about")).claims,
    )


def _items(choice: object) -> Iterator[tuple[str, object]]:
    if isinstance(choice, Mapping):
        yield from ((str(key), value) for key, value in choice.items())


def _problems(recipe: Recipe) -> Iterator[Problem]:
    for record in recipe.records:
        part = record.stage or record.variant
        root = join(recipe.name, part) if part else recipe.name
        for path in record.values:
            if provenance_of(path, record.provenance) is None:
                yield Problem(
                    join(root, path), "has no provenance; say whether it is published, derived, inferred or ours"
                )
        for path, entry in record.provenance.items():
            yield from _entry_problems(join(root, f"provenance.{path}"), entry, recipe.about)
            if not any(value == path or value.startswith(f"{path}.") for value in record.values):
                yield Problem(join(root, f"provenance.{path}"), "belongs to no value of this recipe")
        staged = part is None and len(recipe.records) > 1
        yield from _claim_problems(join(root, "about.claims"), record.claims, recipe.about, staged)


def _claim_problems(path: str, claims: Mapping[str, Claim], about: About, staged: bool) -> Iterator[Problem]:
    for metric, claim in claims.items():
        if metric not in get_args(Metric):
            yield Problem(join(path, metric), f"unknown; known are {', '.join(get_args(Metric))}")
        elif staged and metric not in OF_THE_RUN:
            yield Problem(join(path, metric), "is about one layout; claim it in the stage or variant that has it")
        if claim.source not in about.sources:
            yield Problem(join(path, metric), f"source {claim.source!r} is not in about.sources")


def _entry_problems(path: str, entry: Provenance, about: About) -> Iterator[Problem]:
    if entry.source is not None and entry.source not in about.sources:
        yield Problem(path, f"source {entry.source!r} is not in about.sources")
    if entry.status == "published" and not (entry.source and entry.where):
        yield Problem(path, "published by whom, and where? set source and where")
    if entry.status != "published" and not entry.why:
        yield Problem(path, f"{entry.status}: why? set why")
    if entry.published is not None and not entry.why:
        yield Problem(path, "published otherwise: why is it not realised so? set why")
