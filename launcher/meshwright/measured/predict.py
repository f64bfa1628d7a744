"""What our model predicts for measured rows: those alike in structure as one array of layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from meshwright.cost.estimate import Estimate, estimate
from meshwright.cost.framework import Framework
from meshwright.cost.memory import allocatable
from meshwright.measured.frameworks import practice_of
from meshwright.measured.practice import Stage
from meshwright.measured.rows import Row, layout_of
from meshwright.model.count import padded_vocab
from meshwright.model.kinds import pattern
from meshwright.rules import Layout
from meshwright.spec import Model, Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["predict", "stack"]


def predict(rows: Sequence[Row]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Step seconds and peak GiB of every row, as its source measured them; GiB that the fullest rank allocates."""
    import numpy as np

    seconds, memory, allocated = (np.full(len(rows), np.nan) for _ in range(3))
    for members, layout, framework in stack(rows):
        result = estimate(layout, framework)
        looked = _looked_at(rows[members[0]])
        peak = _reserved(layout, framework, looked, _peak(result, looked.stage))
        seconds[members], memory[members] = result.step_time, peak / 2**30 + looked.outside
        allocated[members] = result.peak_memory / 2**30
    return seconds, memory, allocated


class _Looked(NamedTuple):
    """Whose memory a source published; bytes cached of a logit, a state, a word; GiB beside the allocator's."""

    stage: Stage
    logit: float
    step: float
    words: float
    outside: float


def _looked_at(row: Row) -> _Looked:
    p = practice_of(row.measured)
    return _Looked(p.measured_stage, p.cached_bytes, p.cached_step, p.cached_words, p.context_gib)


def _peak(result: Estimate, stage: Stage) -> Any:
    first, last = result.stages[0].total, result.stages[-1].total
    return {"first": first, "last": last, "fullest": result.peak_memory}[stage]


def _reserved(layout: Layout, framework: Framework, looked: _Looked, allocated: Any) -> Any:
    """With what the allocator caches, but for what it gives back when it lacks memory."""
    import numpy as np

    if not (looked.logit or looked.step or looked.words):
        return allocated
    loss = framework.loss_bytes + looked.logit * (framework.loss_bytes > 0)
    more = replace(framework, loss_bytes=loss, optimizer_bytes=framework.optimizer_bytes + looked.step)
    words = padded_vocab(layout.model, layout.backend, layout.tp) * layout.model.hidden / layout.tp
    reserved = _peak(estimate(layout, more), looked.stage) + looked.words * words
    return np.maximum(allocated, np.minimum(reserved, allocatable(layout.cluster.accelerator.memory_gib)))


_SIZES = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab", "max_positions")


def stack(rows: Sequence[Row]) -> list[tuple[list[int], Layout, Framework]]:
    """Rows alike in everything but numbers as one Layout of arrays, each with the rows' positions and framework."""
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((_structure(row.spec), row.framework, _looked_at(row)), []).append(i)
    return [
        (members, _stacked([rows[i].spec for i in members]), rows[members[0]].framework) for members in groups.values()
    ]


def _stacked(specs: Sequence[Spec]) -> Layout:
    import numpy as np

    first, layouts = specs[0], [layout_of(spec) for spec in specs]
    sizes: dict[str, Any] = {n: np.array([getattr(spec.model, n) for spec in specs]) for n in _sizes(first.model)}
    sequence: Any = np.array([spec.training.sequence for spec in specs])
    model, training = replace(first.model, **sizes), replace(first.training, sequence=sequence)
    names = [f.name for f in fields(Layout) if f.name != "spec"]
    numbers = {n: np.array([getattr(each, n) for each in layouts]) for n in names}
    return Layout(**numbers, spec=replace(first, model=model, training=training))


def _sizes(model: Model) -> tuple[str, ...]:
    """Numbers in which rows of one group may differ; with layers of several kinds, not in how many there are."""
    return _SIZES if pattern(model).uniform else _SIZES[1:]


def _structure(spec: Spec) -> Any:
    zeros: dict[str, Any] = dict.fromkeys(_sizes(spec.model), 0)
    model = replace(spec.model, name="", transformers=None, **zeros)
    p = spec.parallelism
    beside = (p.cp_comm, p.overlap_grad_reduce, p.overlap_tp, p.overlap_p2p, p.overlap_ep, p.optimizer_instances)
    again = (p.recompute_modules, p.recompute_method, p.recompute_layers, p.pipeline_split.layout)
    training = (spec.training.precision, spec.training.grad_reduce)
    return (str(model), str(replace(spec.cluster, gpus=None, nodes=None)), beside, again, training, str(spec.backend))
