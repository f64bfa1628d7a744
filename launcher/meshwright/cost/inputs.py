"""What memory, traffic and time are computed from: one layer's operations, and what a stage carries of them.

A ``Scene`` holds the numbers of one layout, or of many as arrays. A ``Load`` is what one pipeline stage carries;
``stage_loads`` says which of them a layout has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from meshwright.cost.framework import Framework, framework_of
from meshwright.cost.numbers import Number, maximum, minimum, where
from meshwright.model.count import cuts_head, padded_vocab, parts_of
from meshwright.model.kinds import ahead_kinds, kinds, running_counts
from meshwright.model.layers import LayerKind
from meshwright.model.operations import Degrees, Operation, decoder_layer, parameters
from meshwright.rules import Layout
from meshwright.rules.megatron_experts import experts_load
from meshwright.spec import Efficiency
from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Model

__all__ = ["Load", "Pair", "Scene", "add_prediction", "built", "in_flight", "lacking", "recomputed_part", "scene"]


Pair = tuple[Number, Number]


@dataclass(frozen=True)
class Load:
    """One pipeline stage, or one of its chunks: its layers, its ends, the micro-batches whose activations it holds."""

    index: Number
    of_kind: tuple[Number, ...]  # layers of each kind of the scene, with prediction layers, which cost as much
    embedding: Number  # 1 or 0
    head: Number
    in_flight: Number
    mtp: Number  # of the layers, those that predict further tokens
    blocks: Number  # of the layers, those that full recomputation by blocks runs again
    lacks: tuple[Number, Number] = (0, 0)  # layers that the first chunk and the last have less than those between

    @property
    def layers(self) -> Number:
        """Of every kind."""
        return sum(self.of_kind)

    @property
    def work(self) -> tuple[object, ...]:
        """All that the time of a micro-batch depends on: stages that have it in common take the same."""
        return self.of_kind, self.head, self.mtp, self.blocks

    def total(self, each: Iterable[Number]) -> Number:
        """The sum over layers of a number that a layer of each kind has."""
        return sum(n * value for n, value in zip(self.of_kind, each, strict=True))

    def largest(self, each: Iterable[Number]) -> Number:
        """The largest over the kinds that stand here."""
        return maximum(0, *(where(n > 0, value, 0) for n, value in zip(self.of_kind, each, strict=True)))


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
    def kinds(self) -> tuple[LayerKind, ...]:
        """Of the model's layers."""
        return kinds(self.layout.model)

    @cached_property
    def standing(self) -> tuple[tuple[int, ...], ...]:
        """Of each kind, how many of one model's layers stand before layer 0, 1, ... and after the last."""
        counts = running_counts(self.layout.model)
        return tuple(counts[kind] for kind in self.kinds)

    @cached_property
    def layers(self) -> tuple[tuple[Operation, ...], ...]:
        """The operations of a layer of each kind."""
        return tuple(decoder_layer(self.layout.model, kind, self.framework.kernels) for kind in self.kinds)

    @cached_property
    def parameters(self) -> tuple[tuple[Number, Number], ...]:
        """(all, routed experts') parameters of one rank in a layer of each kind."""
        d = self.degrees
        return tuple(parameters(operations, d.tp, d.etp, d.ep, d.parts) for operations in self.layers)

    def at(self, efficiency: Efficiency) -> Scene:
        """The same on a machine with other constants, of which what a layer does is not one."""
        cluster = replace(self.layout.cluster, efficiency=efficiency)
        layout = replace(self.layout, spec=replace(self.layout.spec, cluster=cluster))
        moved = replace(self, layout=layout)
        vars(moved).update(kinds=self.kinds, layers=self.layers, parameters=self.parameters)
        return moved

    @property
    def domain(self) -> Number:
        """GPUs joined by the fast links."""
        return self.layout.cluster.nvlink_domain or self.layout.cluster.gpus_per_node

    @property
    def width(self) -> float:
        """Bytes of an activation."""
        return 4.0 if self.single else 2.0

    @property
    def words(self) -> Number:
        """Ranks that the head's rows are dealt out to."""
        return self.layout.tp if cuts_head(self.layout.model, self.layout.backend) else 1 + 0 * self.layout.tp

    @property
    def single(self) -> bool:
        """Whether products are of 32 bits."""
        return self.layout.training.precision == "fp32" and not self.framework.autocast

    @cached_property
    def inner_stages(self) -> Number:
        """Degree pp where stages are numbered before data-parallel ranks, else 1."""
        return self.layout.pp if self.layout.spec.parallelism.order.endswith("dp") else 1 + 0 * self.layout.pp

    @cached_property
    def replicas(self) -> Number:
        """Ranks that hold the same dense weights, or the same parts of them: dp and cp."""
        return self.layout.dp * self.layout.cp

    @cached_property
    def sharers(self) -> Pair:
        """Of the ranks with the same (dense weights, experts), those that share one copy of what ZeRO shards."""
        copies = self.layout.spec.parallelism.optimizer_instances
        return maximum(1, self.replicas // copies), maximum(1, self.edp // copies)

    @cached_property
    def owners(self) -> Pair:
        """Those over which the optimizer's states are sharded: Megatron-FSDP may shard them over the copies, too."""
        wide = self.layout.backend.name == "megatron" and self.layout.backend.megatron.megatron_fsdp.outer_optimizer
        return (self.replicas, self.edp) if wide else self.sharers


def scene(layout: Layout, framework: Framework | None = None) -> Scene:
    """Everything derived from ``layout`` once; ``framework`` where it is not the backend's."""
    how = framework or framework_of(layout)
    sequence = where(layout.sp, layout.tp, 1)
    return Scene(
        layout=layout,
        framework=how,
        degrees=Degrees(
            layout.tp,
            sequence,
            where(how.regathers, sequence, 1),
            layout.etp,
            layout.ep,
            parts_of(layout.spec),
            experts_load(layout),
        ),
        tokens=layout.micro_batch * layout.training.sequence / layout.cp,
        vocab=padded_vocab(layout.model, layout.backend, layout.tp),
        edp=maximum(1, layout.world // (layout.etp * layout.ep * layout.egtp * layout.pp)),
    )


def add_prediction(model: Model, of_kind: Iterable[Number], mtp: Number) -> tuple[Number, ...]:
    """``of_kind`` with what ``mtp`` layers of multi-token prediction are made of: layers that cost as much."""
    if not model.mtp:
        return tuple(of_kind)
    known = kinds(model)
    ahead = known if len(known) == 1 and not (model.pattern and "/" in model.pattern) else ahead_kinds(model)
    return tuple(n + ahead.count(kind) * mtp for n, kind in zip(of_kind, known, strict=True))


def built(model: Model, load: Load) -> Load:
    """``load`` with a layer of multi-token prediction that runs several times counted once, as its weights are."""
    again = maximum(0, load.mtp - 1) if model.mtp_repeated else 0
    return replace(load, of_kind=add_prediction(model, load.of_kind, -again), mtp=load.mtp - again)


def recomputed_part(s: Scene, load: Load) -> Number:
    """Part of the stage's layers that full recomputation runs again: all, or of each chunk the first few (block)."""
    p = s.layout.spec.parallelism
    return 1 + 0 * load.layers if p.recompute_method != "block" else load.blocks / maximum(1, load.layers)


def in_flight(r: Layout, load: Load) -> Number:
    """Micro-batches whose activations the stage ``load`` holds at its peak, in whole stages.

    1F1B holds one for each stage from here on; interleaving warms up ``2*(pp-index-1) + (vpp-1)*pp`` chunks and
    starts one more (megatron/core/pipeline_parallel/schedules.py ``get_pp_rank_microbatches``): a group of each chunk,
    of the last what is left, and of the first again what is left then.
    """
    group, after = r.spec.parallelism.microbatch_group or r.pp, 2 * (r.pp - load.index - 1) + 1
    passes = after + (r.vpp - 1) * group
    first, last = group + maximum(0, after - group), minimum(after, group)
    full = (load.layers + sum(load.lacks)) / r.vpp
    held = passes * full - load.lacks[0] * first - load.lacks[1] * last
    interleaved = held / where(load.layers > 0, load.layers, 1)
    return minimum(r.microbatches, where(r.vpp > 1, interleaved, r.pp - load.index))


def lacking(sizes: Sequence[int]) -> tuple[float, float]:
    """Of the first chunk and the last, against the mean of those between; of two, the last against the first."""
    between = sizes[1:-1] or sizes[:1]
    mean = sum(between) / len(between)
    return mean - sizes[0], mean - sizes[-1]
