"""Which stages a pipeline has, as far as they differ: the fullest and the slowest are among them.

Where all layers are of one kind and no layout string is given, the first stage, the second (as all between are) and the
last say everything, for arrays of layouts at once. Else the split itself is asked, once for each that an array holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

from meshwright.cost.inputs import Load, Scene, add_prediction, in_flight, lacking
from meshwright.cost.numbers import Number, interpolate, maximum, minimum, where
from meshwright.layout.pipeline import split
from meshwright.layout.plan import Chunk
from meshwright.model.kinds import kinds, running_counts
from meshwright.rules import Layout
from meshwright.spec import PipelineSplit
from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Model

__all__ = ["Place", "Stages", "load_of", "stages_of"]


Standing = Sequence[tuple[int, ...]]  # of each kind, layers before layer 0, 1, ...


@dataclass(frozen=True)
class Place:
    """A stage; where several hold the same, the first of them, and ``latest`` the last.

    ``ahead``: the first chunks of all stages before ``latest``, whose forward passes come before all that a stage does,
    and whose backward passes after it.
    """

    load: Load
    latest: Number
    ahead: Load


@dataclass(frozen=True)
class Stages:
    """The stages that differ, the pipeline's first and last at the ends, and all of them together."""

    places: tuple[Place, ...]
    whole: Load

    @property
    def loads(self) -> tuple[Load, ...]:
        """Of each place."""
        return tuple(place.load for place in self.places)


@dataclass(frozen=True)
class _Cut:
    """How layers are dealt out, in numbers or arrays; ``most``: layers of a chunk that block recomputation covers."""

    pp: Number
    vpp: Number
    first: Number
    last: Number
    embedding: Number
    loss: Number
    most: int
    layout: str | None = None


def stages_of(s: Scene) -> Stages:
    """The stages of every layout of the scene. Splits that Megatron refuses are taken in proportion."""
    cut = _cut(s.layout)
    even = len(s.kinds) == 1 and cut.layout is None
    found = _ends(s.layout.model, cut) if even else _each(_sizeless(s.layout.model), cut)
    return replace(found, places=tuple(_held(s.layout, place) for place in found.places))


def load_of(s: Scene, index: int, chunks: Sequence[Chunk]) -> Load:
    """What some chunks of a stage put on it."""
    load = _load(s.layout.model, s.standing, index, chunks, _most(s.layout))
    return replace(load, in_flight=in_flight(s.layout, load))


def _sizeless(model: Model) -> Model:
    """Sizes, which may be arrays, do not decide where layers stand."""
    return replace(model, hidden=0, ffn=0, heads=0, kv_heads=0, head_dim=0, vocab=0, max_positions=0)


def _cut(r: Layout) -> _Cut:
    return _Cut(r.pp, r.vpp, r.first, r.last, r.embedding, r.loss, _most(r), r.spec.parallelism.pipeline_split.layout)


def _most(r: Layout) -> int:
    return r.spec.parallelism.recompute_layers or 1


def _held(r: Layout, place: Place) -> Place:
    return replace(place, load=replace(place.load, in_flight=in_flight(r, place.load)))


def _load(model: Model, standing: Standing, index: int, chunks: Sequence[Chunk], most: int) -> Load:
    mtp, sizes = sum(chunk.mtp for chunk in chunks), [chunk.layers + chunk.mtp for chunk in chunks]
    return Load(
        index=index,
        of_kind=add_prediction(model, (sum(n[c.first + c.layers] - n[c.first] for c in chunks) for n in standing), mtp),
        embedding=int(any(chunk.embedding for chunk in chunks)),
        head=int(any(chunk.loss for chunk in chunks)),
        in_flight=0,
        mtp=mtp,
        blocks=sum(min(most, size) for size in sizes),
        lacks=lacking(sizes),
    )


def _each(model: Model, cut: _Cut) -> Stages:
    """Every split that ``cut`` holds, looked at once; layouts with fewer stages that differ repeat their last."""
    columns = {name: getattr(cut, name) for name in ("pp", "vpp", "first", "last", "embedding", "loss")}
    if all(isinstance(column, int) for column in columns.values()):
        return _split(model, cut)
    import numpy as np

    table = np.array(np.broadcast_arrays(*columns.values()))
    codes = np.ravel_multi_index(tuple(table), tuple(table.max(axis=1) + 1))
    _, places, row = np.unique(codes, return_index=True, return_inverse=True)
    cuts = [dict(zip(columns, table[:, i].tolist(), strict=True)) for i in places]
    found = [_split(model, replace(cut, **one)) for one in cuts]
    longest = max(len(one.places) for one in found)
    padded = [replace(one, places=one.places + one.places[-1:] * (longest - len(one.places))) for one in found]
    stacked: Stages = _stacked(padded, row)
    return stacked


def _stacked(values: Sequence[Any], row: Any) -> Any:
    """Records of numbers -> one record of arrays, which holds ``values[row[i]]`` at ``i``."""
    one = values[0]
    if is_dataclass(one) and not isinstance(one, type):
        return type(one)(**{f.name: _stacked([getattr(v, f.name) for v in values], row) for f in fields(one)})
    if isinstance(one, tuple):
        return tuple(_stacked(column, row) for column in zip(*values, strict=True))
    import numpy as np

    return np.array(values)[row]


@lru_cache(maxsize=4096)
def _split(model: Model, cut: _Cut) -> Stages:
    """The stages of one split; in proportion where Megatron would refuse it."""
    ends = {name: getattr(cut, name) or None for name in ("first", "last")}
    division = PipelineSplit(**ends, embedding=bool(cut.embedding), loss=bool(cut.loss), layout=cut.layout)
    stages = split(model, cut.pp, cut.vpp, division)
    if sum(chunk.layers for chunks in stages for chunk in chunks) != model.layers:
        return _ends(model, cut)
    standing = [running_counts(model)[kind] for kind in kinds(model)]
    loads = [_load(model, standing, i, chunks, cut.most) for i, chunks in enumerate(stages)]
    firsts = [_load(model, standing, 0, chunks[:1], cut.most) for chunks in stages]
    alike: dict[Load, list[int]] = {}
    for i, load in enumerate(loads):
        alike.setdefault(replace(load, index=0), []).append(i)
    places = (Place(loads[here[0]], here[-1], _sum(model, firsts[: here[-1]])) for here in alike.values())
    return Stages(tuple(places), _sum(model, loads))


def _sum(model: Model, loads: Sequence[Load]) -> Load:
    """Several together."""
    of_kind = tuple(sum(load.of_kind[k] for load in loads) for k in range(len(kinds(model))))
    ends = {name: sum(getattr(load, name) for load in loads) for name in ("embedding", "head", "mtp", "blocks")}
    return Load(index=0, of_kind=of_kind, in_flight=0, **ends)


def _ends(model: Model, cut: _Cut) -> Stages:
    """The first stage, the second and the last; with fewer stages some are the same."""
    last = cut.pp - 1
    second = where(cut.pp > 2, cut.pp - 2, last)
    places = (
        _place(model, cut, 0 * cut.pp, 0 * cut.pp),
        _place(model, cut, minimum(1, last), second),
        _place(model, cut, last, last),
    )
    count = (1, maximum(0, cut.pp - 2), (cut.pp > 1) + 0)
    blocks = sum(n * place.load.blocks for n, place in zip(count, places, strict=True))
    everything = add_prediction(model, _between(model, 0, model.layers), model.mtp)
    return Stages(places, Load(0, everything, 1, 1, 0, model.mtp, blocks))


def _place(model: Model, cut: _Cut, index: Number, latest: Number) -> Place:
    head = (index == cut.pp - 1) + 0
    mtp = head * model.mtp
    of_kind = add_prediction(model, _of_kind(model, cut, index), mtp)
    blocks = minimum(sum(of_kind), cut.most * cut.vpp)
    lacks = ((index == 0) * cut.embedding, (index == cut.pp - 1) * cut.loss - mtp)
    load = Load(index, of_kind, (index == 0) + 0, head, 0, mtp, blocks, lacks)
    blocks_ahead = _over_firsts(latest, *(minimum(cut.most, _chunk(model, cut, i)) for i in _first_two(cut)))
    ahead = Load(0, _between(model, 0, _ahead(model, cut, latest)), 0, 0, 0, 0, blocks_ahead)
    return Place(load, latest, ahead)


def _of_kind(model: Model, cut: _Cut, index: Number) -> tuple[Number, ...]:
    """Layers of each kind: on the stage's first chunk those that stand there, on its others a mixture of the rest.

    The first chunks of all stages come before every second one (``layout.pipeline``).
    """
    layers = _layers(model, cut, index)
    if len(kinds(model)) == 1:
        return (layers,)
    chunk, before, done = layers / cut.vpp, _ahead(model, cut, index), model.layers / cut.vpp
    left = maximum(1, model.layers - done)
    here, rest = _between(model, before, before + chunk), _between(model, done, model.layers)
    return tuple(a + (layers - chunk) * b / left for a, b in zip(here, rest, strict=True))


def _between(model: Model, start: Number, end: Number) -> tuple[Number, ...]:
    """Of decoder layers ``start .. end``, how many are of each kind."""
    if len(kinds(model)) == 1:
        return (end - start,)
    counts = [running_counts(model)[kind] for kind in kinds(model)]
    return tuple(interpolate(count, end) - interpolate(count, start) for count in counts)


def _ahead(model: Model, cut: _Cut, index: Number) -> Number:
    """Decoder layers of the first chunks of all stages before ``index``."""
    return _over_firsts(index, *(_chunk(model, cut, i) for i in _first_two(cut)))


def _first_two(cut: _Cut) -> tuple[Number, Number]:
    return 0 * cut.pp, minimum(1, cut.pp - 1)


def _over_firsts(index: Number, first: Number, second: Number) -> Number:
    return (index > 0) * (first + maximum(0, index - 1) * second)


def _chunk(model: Model, cut: _Cut, index: Number) -> Number:
    """Decoder layers of the first chunk of stage ``index``, which gives up the embedding's slot whole."""
    slots = (model.layers + cut.embedding + cut.loss) / (cut.pp * cut.vpp)
    even = slots - (index == 0) * cut.embedding - ((index == cut.pp - 1) & (cut.vpp == 1)) * cut.loss
    return where((cut.first > 0) | (cut.last > 0), _layers(model, cut, index) / cut.vpp, even)


def _layers(model: Model, cut: _Cut, index: Number) -> Number:
    """Decoder layers of stage ``index``: what was set for the ends, an even share of the rest."""
    set_ends = (cut.first > 0) * 1 + (cut.last > 0) * 1  # of arrays of bools, a sum is an "or"
    slots = (model.layers + cut.embedding + cut.loss) / cut.pp
    even = slots - (index == 0) * cut.embedding - (index == cut.pp - 1) * cut.loss
    middle = (model.layers - cut.first - cut.last) / maximum(1, cut.pp - set_ends)
    at_end = where((index == cut.pp - 1) & (cut.last > 0), cut.last, middle)
    return where(set_ends > 0, where((index == 0) & (cut.first > 0), cut.first, at_end), even)
