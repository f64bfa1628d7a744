"""Proposals of another split of the layers over the pipeline's stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from meshwright.errors import Repair
from meshwright.layout.balance import best_splits
from meshwright.model.work import pipeline_work
from meshwright.rules._repairs import nearest
from meshwright.rules._rule import Layout
from meshwright.spec import PipelineSplit

__all__ = ["even_stages", "resplit"]

_DIGITS = 6
"""Decimals of the work of a stage in layers: splits that differ by less are alike."""


def resplit(r: Layout) -> Iterable[Repair]:
    """The best splits over the same stages and chunks: of equally fast ones the most even, then what changes least."""
    work = pipeline_work(r.model, r.training.sequence)
    layer = sum(work.layers) / r.model.layers
    balances = best_splits(r.model, work, r.pp, r.vpp)
    ranked = sorted(
        (round(b.slowest / layer, _DIGITS), round(b.square / layer**2, _DIGITS), len(changes), i)
        for i, b in enumerate(balances)
        if (changes := _changes(r, b.division))
    )
    return (_changes(r, balances[i].division) for *_, i in ranked)


def even_stages(r: Layout) -> Iterable[Repair]:
    """Other numbers of stages, each with as many layers; the slots of the embedding and the loss stay."""
    now = r.spec.parallelism.pipeline_split
    even = _changes(r, PipelineSplit(embedding=now.embedding, loss=now.loss))
    return ({**repair, **even} for repair in nearest("parallelism.pp", lambda layout: layout.pp)(r))


def _changes(r: Layout, division: PipelineSplit) -> dict[str, object]:
    now = r.spec.parallelism.pipeline_split
    return {
        f"parallelism.pipeline_split.{f.name}": getattr(division, f.name)
        for f in fields(PipelineSplit)
        if getattr(division, f.name) != getattr(now, f.name)
    }
