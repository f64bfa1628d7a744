"""One layout with what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from meshwright.cost.techniques import used
from meshwright.resolver import normalise, override
from meshwright.search.space import COLUMNS, Variant
from meshwright.spec import Parallelism, Spec, Training
from meshwright.spec.frozen import dataclass

__all__ = ["Candidate", "assignments", "changed", "differences", "layout_words", "spec_of", "with_layout"]

_BOOLEAN = ("sp", "embedding", "loss")
_OPTIONAL = ("first", "last")


@dataclass(frozen=True)
class Candidate:
    """A layout: a row of a Variant.

    ``step_time`` and ``parts`` in seconds, ``peak_memory`` in bytes of the fullest rank, ``score`` by the objective.
    """

    variant: Variant
    columns: Mapping[str, int]
    step_time: float
    peak_memory: float
    parts: Mapping[str, float]
    score: float

    @cached_property
    def spec(self) -> Spec:
        """The run with this layout, normalised."""
        return spec_of(self.variant, self.columns)

    @property
    def gpus(self) -> int:
        """GPUs of the run."""
        assert self.spec.cluster.gpus is not None
        return self.spec.cluster.gpus

    @property
    def tokens_per_gpu(self) -> float:
        """Tokens per second and GPU."""
        t = self.spec.training
        assert t.global_batch is not None
        return t.global_batch * t.sequence / self.step_time / self.gpus


def spec_of(variant: Variant, columns: Mapping[str, int]) -> Spec:
    """The Spec that one row of a Variant's table stands for."""
    spec = variant.spec
    for path, name in COLUMNS.items():
        if name in columns:
            spec = override(spec, path, _typed(name, int(columns[name])))
    return normalise(spec)


def layout_words(candidate: Candidate) -> str:
    """A layout in one line: what is not 1, off or none."""
    p, t = candidate.spec.parallelism, candidate.spec.training
    degrees = [f"{name} {getattr(p, name)}" for name in ("tp", "gtp", "pp", "vpp", "cp", "ep", "etp", "egtp", "dp")]
    words = [word for word in degrees if not word.endswith(" 1")] + ["sp"] * p.sp + [f"zero {p.zero}"]
    words += [f"recompute {p.recompute}"] * (p.recompute != "none") + [f"micro-batch {t.micro_batch}"]
    words += [one.name.replace("_", " ") for one in used(candidate.spec)]
    split = p.pipeline_split
    words += [f"{name} {getattr(split, name)}" for name in ("first", "last") if getattr(split, name)]
    words += [f"{name} slot" for name in ("embedding", "loss") if getattr(split, name)]
    return ", ".join([*words, *([f"layout {split.layout}"] if split.layout else [])])


def assignments(spec: Spec) -> dict[str, Any]:
    """The layout as overrides: every key of parallelism that is not at its default, and the micro-batch."""
    return {
        **{f"parallelism.{path}": value for path, value in _stated(spec.parallelism, Parallelism())},
        "training.micro_batch": spec.training.micro_batch,
    }


def differences(here: Spec, there: Spec) -> Iterator[tuple[str, Any, Any]]:
    """(key, value here, value there) of what a user would change to come from one layout to the other."""
    pairs = [*_pairs(here.parallelism, there.parallelism, ""), *_batches(here.training, there.training)]
    pairs += [("gpus", here.cluster.gpus, there.cluster.gpus)]
    yield from ((name, a, b) for name, a, b in pairs if a != b)


def changed(here: Spec, there: Spec) -> dict[str, Any]:
    """Every key of the layout of ``there``, and those that return to their defaults, as overrides of ``here``."""
    pairs = _pairs(here.parallelism, there.parallelism, "parallelism.")
    moved = {path: new for path, old, new in pairs if old != new} | assignments(there)
    batch = {"training.global_batch": there.training.global_batch}
    unstated = {"training.microbatches": None} if here.training.microbatches is not None else {}
    return {"cluster.nodes": there.cluster.nodes, "cluster.gpus": there.cluster.gpus, **moved, **batch, **unstated}


def _typed(name: str, value: int) -> Any:
    if name in _BOOLEAN:
        return bool(value)
    return (value or None) if name in _OPTIONAL else value


def _stated(value: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, new, old in _pairs(value, default, prefix):
        if new != old:
            yield name, new


def _pairs(here: Any, there: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for name in here.__dataclass_fields__:
        a, b = getattr(here, name), getattr(there, name)
        if name == "pipeline_split":
            yield from _pairs(a, b, f"{prefix}pipeline_split.")
        else:
            yield prefix + name, a, b


def _batches(here: Training, there: Training) -> list[tuple[str, Any, Any]]:
    names = ("micro_batch", "global_batch", "sequence")
    return [(name, getattr(here, name), getattr(there, name)) for name in names]


def with_layout(spec: Spec, layout: Spec) -> Spec:
    """``spec`` with the parallelism, the techniques, the micro-batch and the GPUs of ``layout``."""
    training = replace(spec.training, micro_batch=layout.training.micro_batch, microbatches=None)
    laid_out = replace(spec, parallelism=layout.parallelism, training=training, cluster=layout.cluster)
    return replace(laid_out, backend=layout.backend)
