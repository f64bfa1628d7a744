"""Which kind each decoder layer of a model is: a mixer of tokens, and a feed-forward part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate

from meshwright.model.layers import LayerKind, measured_kind
from meshwright.model.pattern import read_ahead, read_pattern
from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Model

__all__ = ["Pattern", "ahead_kinds", "count_kinds", "kinds", "layer_kinds", "mixers", "pattern", "running_counts"]


@dataclass(frozen=True)
class Pattern:
    """What decides the kinds of a model's layers: a pattern, or its short forms; see ``spec.model`` for each."""

    mixer: str
    windowed: bool
    full_every: int
    routed: bool
    first_dense: int
    every: int
    written: str | None
    measured: tuple[int, ...] | None = None  # the kinds of layers that were looked at

    @property
    def uniform(self) -> bool:
        """Whether all layers are of one kind, however many there are."""
        if self.measured is not None:
            return len(set(self.measured)) == 1
        if self.written is not None:
            return len(set(read_pattern(self.written))) == 1
        return not (self.windowed and self.full_every) and not (self.routed and (self.first_dense or self.every > 1))

    def kind(self, layer: int) -> LayerKind:
        """Of decoder layer ``layer``, from 0."""
        if self.measured is not None:
            return measured_kind(self.measured[layer])
        if self.written is not None:
            return read_pattern(self.written)[layer]
        full = not self.windowed or (self.full_every > 0 and (layer + 1) % self.full_every == 0)
        routed = self.routed and layer >= self.first_dense and (layer - self.first_dense + 1) % self.every == 0
        return LayerKind(self.mixer if full else "windowed_attention", "experts" if routed else "mlp")


def pattern(model: Model) -> Pattern:
    """How the model's layers follow each other."""
    moe = model.moe
    return Pattern(
        mixer="attention" if model.mla is None else "sparse_attention" if model.indexer else "latent_attention",
        windowed=model.sliding_window is not None and model.mla is None,
        full_every=model.full_attention_every,
        routed=moe is not None,
        first_dense=moe.first_dense if moe else 0,
        every=moe.every if moe else 1,
        written=model.pattern,
        measured=model.measured.order if model.measured else None,
    )


def layer_kinds(model: Model) -> tuple[LayerKind, ...]:
    """The kind of every decoder layer, first to last."""
    return _layer_kinds(pattern(model), model.layers)


def kinds(model: Model) -> tuple[LayerKind, ...]:
    """The kinds that the model has, in the order in which they first stand; ``layers`` may be an array if uniform."""
    how = pattern(model)
    here = (how.kind(0),) if how.uniform else _layer_kinds(how, model.layers)
    return tuple(dict.fromkeys((*here, *(_written_ahead(model) if model.mtp else ()))))


def mixers(model: Model) -> frozenset[str]:
    """The names of its layers' mixers, ``none`` among them; empty where the model was looked at."""
    return frozenset() if model.measured is not None else frozenset(kind.mixer for kind in kinds(model))


def ahead_kinds(model: Model) -> tuple[LayerKind, ...]:
    """What one layer of multi-token prediction is made of: what the pattern says, or a layer as the last one."""
    return _written_ahead(model) or (layer_kinds(model)[-1],)


def _written_ahead(model: Model) -> tuple[LayerKind, ...]:
    return () if model.pattern is None else read_ahead(model.pattern)


def count_kinds(model: Model, first: int, layers: int) -> Mapping[LayerKind, int]:
    """How many of the decoder layers ``first .. first + layers`` are of each kind; kinds without any are left out."""
    return Counter(layer_kinds(model)[first : first + layers])


def running_counts(model: Model) -> Mapping[LayerKind, tuple[int, ...]]:
    """Of each kind, how many stand before layer 0, 1, ... and after the last: ``layers + 1`` numbers."""
    return _running_counts(pattern(model), model.layers, kinds(model))


@lru_cache(maxsize=64)
def _layer_kinds(how: Pattern, layers: int) -> tuple[LayerKind, ...]:
    return tuple(how.kind(layer) for layer in range(layers))


@lru_cache(maxsize=64)
def _running_counts(how: Pattern, layers: int, known: tuple[LayerKind, ...]) -> Mapping[LayerKind, tuple[int, ...]]:
    here = _layer_kinds(how, layers)
    return {kind: tuple(accumulate((k == kind for k in here), initial=0)) for kind in known}
