"""What memory, traffic and time are computed from: one layer's operations, and how layers fall on stages.

A ``Scene`` holds the numbers of one layout, or of many as arrays. A ``Load`` is what one pipeline stage carries;
where stages differ only three kinds do: the first, the ones between, and the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from meshwright.cost.framework import Framework, framework_of
from meshwright.cost.numbers import Number, clip, maximum, minimum, where
from meshwright.model.operations import Degrees, Operation, decoder_layer
from meshwright.rules import Layout

__all__ = ["Load", "Scene", "in_flight", "loads", "recomputed_part", "scene"]


@dataclass(frozen=True)
class Load:
    """One pipeline stage: its layers, its ends, the micro-batches whose activations it holds at once."""

    index: Number
    dense: Number  # decoder layers with a dense MLP
    moe: Number  # decoder layers with experts
    embedding: Number  # 1 or 0
    head: Number
    in_flight: Number
    mtp: Number = 0

    @property
    def layers(self) -> Number:
        """Decoder layers, and prediction layers that cost as much."""
        return self.dense + self.moe + self.mtp


@dataclass(frozen=True)
class Scene:
    """The numbers of a layout that every part of the cost needs."""

    layout: Layout
    framework: Framework
    degrees: Degrees
    tokens: Number  # of one micro-batch on one rank
    vocab: Number  # padded
    edp: Number

    @cached_property
    def dense(self) -> tuple[Operation, ...]:
        """One decoder layer with a dense MLP."""
        return decoder_layer(self.layout.model, False, self.framework.kernels)

    @cached_property
    def moe(self) -> tuple[Operation, ...]:
        """One decoder layer with experts; nothing where the model has none."""
        return decoder_layer(self.layout.model, True, self.framework.kernels) if self.layout.model.moe else ()

    @property
    def domain(self) -> Number:
        """GPUs joined by the fast links."""
        return self.layout.cluster.nvlink_domain or self.layout.cluster.gpus_per_node

    @property
    def width(self) -> float:
        """Bytes of an activation."""
        return 4.0 if self.layout.training.precision == "fp32" else 2.0

    @property
    def inner_stages(self) -> Number:
        """Degree pp where stages are numbered before data-parallel ranks, else 1."""
        return self.layout.pp if self.layout.spec.parallelism.order.endswith("dp") else 1 + 0 * self.layout.pp

    @property
    def replicas(self) -> Number:
        """Ranks that hold the same dense weights: dp and cp."""
        return self.layout.dp * self.layout.cp


def scene(layout: Layout, framework: Framework | None = None) -> Scene:
    """Everything derived from ``layout`` once; ``framework`` where it is not the backend's."""
    how = framework or framework_of(layout)
    sequence = where(layout.sp, layout.tp, 1)
    divisor = layout.backend.megatron.vocab_divisor * layout.tp
    return Scene(
        layout=layout,
        framework=how,
        degrees=Degrees(layout.tp, sequence, where(how.regathers, sequence, 1), layout.etp, layout.ep),
        tokens=layout.micro_batch * layout.training.sequence / layout.cp,
        vocab=-(-layout.model.vocab // divisor) * divisor,
        edp=maximum(1, layout.world // (layout.etp * layout.ep * layout.pp)),
    )


def loads(s: Scene) -> tuple[Load, Load, Load]:
    """The first stage, the second (as all between are), and the last; with fewer stages some are the same."""
    r = s.layout
    last = r.pp - 1
    return _load(s, 0 * r.pp), _load(s, minimum(1, last)), _load(s, last)


def _load(s: Scene, index: Number) -> Load:
    r = s.layout
    layers = _layers(r, index)
    dense = _dense(r, layers, index)
    head = (index == r.pp - 1) + 0
    return Load(index, dense, layers - dense, (index == 0) + 0, head, in_flight(r, index), head * r.model.mtp)


def _layers(r: Layout, index: Number) -> Number:
    """Decoder layers of stage ``index``: what was set for the ends, an even share of the rest."""
    set_ends = (r.first > 0) * 1 + (r.last > 0) * 1  # of arrays of bools, a sum is an "or"
    even = (r.model.layers + r.embedding + r.loss) / r.pp - (index == 0) * r.embedding - (index == r.pp - 1) * r.loss
    middle = (r.model.layers - r.first - r.last) / maximum(1, r.pp - set_ends)
    uneven = where((index == 0) & (r.first > 0), r.first, where((index == r.pp - 1) & (r.last > 0), r.last, middle))
    return where(set_ends > 0, uneven, even)


def _dense(r: Layout, layers: Number, index: Number) -> Number:
    """Of ``layers``, those with a dense MLP: the leading ones fall on the first chunks, the others evenly."""
    moe = r.model.moe
    if moe is None:
        return layers
    chunk = layers / r.vpp
    leading = clip(moe.first_dense - index * chunk, 0, chunk)
    return leading + (layers - leading) * (1 - 1 / moe.every)


def recomputed_part(s: Scene, load: Load) -> Number:
    """Part of the stage's layers that full recomputation runs again: all, or of each chunk the first few (block)."""
    p = s.layout.spec.parallelism
    if p.recompute_method != "block":
        return 1 + 0 * load.layers
    return minimum(1, (p.recompute_layers or 1) * s.layout.vpp / maximum(1, load.layers))


def in_flight(r: Layout, index: Number) -> Number:
    """Micro-batches whose activations stage ``index`` holds at its peak, in whole stages.

    1F1B holds one for each stage from here on; interleaving warms up ``2*(pp-index-1) + (vpp-1)*pp`` chunks and
    starts one more (megatron/core/pipeline_parallel/schedules.py ``get_pp_rank_microbatches``).
    """
    group = r.spec.parallelism.microbatch_group or r.pp
    interleaved = (2 * (r.pp - index - 1) + (r.vpp - 1) * group + 1) / r.vpp
    return minimum(r.microbatches, where(r.vpp > 1, interleaved, r.pp - index))
