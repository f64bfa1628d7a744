"""The machine-readable form of a recipe, the same for the list, for one recipe and for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from meshwright.compose import Run
from meshwright.library.files import disclosure, statuses, unstated
from meshwright.library.finding import Finding, contradictions
from meshwright.library.recipe import Recipe, Record, provenance_of
from meshwright.model.count import total_parameters
from meshwright.spec import Spec

__all__ = ["summary"]


def summary(recipe: Recipe, runs: Sequence[Run], findings: Sequence[Finding], values: bool = False) -> dict[str, Any]:
    """What a recipe is, how much of it is known, and what the audit found; with ``values`` every value, too.

    ``runs``: one of each variant.
    """
    about, run = recipe.about, runs[0]
    document: dict[str, Any] = {
        "id": recipe.name,
        "title": about.title,
        "model": run.stages[0].model.name,
        "parameters": total_parameters(run.stages[0].model),
        "cluster": run.stages[0].cluster.name,
        "backend": run.stages[0].backend.name,
        "layout": [_layout(spec) for one in runs for spec in one.stages],
        "disclosure": disclosure(recipe),
        "values": statuses(recipe),
        "unstated": unstated(recipe, run),
        "sources": {key: asdict(source) for key, source in about.sources.items()},
        "authors_framework": about.authors_framework,
        "differences": list(about.differences),
        "checks": len(findings),
        "findings": [asdict(finding) for finding in (findings if values else contradictions(findings))],
    }
    return document | {"records": [_record(record) for record in recipe.records]} if values else document


def _layout(spec: Spec) -> dict[str, Any]:
    p = spec.parallelism
    degrees = {name: getattr(p, name) for name in ("tp", "sp", "pp", "vpp", "cp", "ep", "etp", "zero")}
    return {
        "variant": spec.variant,
        "stage": spec.stage,
        "gpus": spec.cluster.gpus,
        **degrees,
        "sequence": spec.training.sequence,
        "global_batch": spec.training.global_batch,
    }


def _record(record: Record) -> dict[str, Any]:
    entries = {path: provenance_of(path, record.provenance) for path in record.values}
    return {
        "variant": record.variant,
        "stage": record.stage,
        "values": {
            path: {"value": value, **_stated(entry)}
            for path, value in record.values.items()
            if (entry := entries[path]) is not None
        },
        "claims": {metric: _stated(claim) for metric, claim in record.claims.items()},
    }


def _stated(entry: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value is not None}
