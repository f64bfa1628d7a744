"""Generalized tensor parallelism: what is gathered of weights that ranks keep in parts, in which buffers, how long.

Megatron gathers each matrix on its own, one ahead of the product that uses it, and scatters its gradient behind the
next one's (megatron/core/tensor_parallel/generalized_tensor_parallelism.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.cost.collectives import beside, ring, weight_groups
from meshwright.cost.inputs import Load, Scene
from meshwright.cost.numbers import Number, maximum
from meshwright.model.operations import Operation, mtp_joint

__all__ = ["buffers", "elements", "exposed", "matrices", "weight_bytes"]

Pair = tuple[Number, Number]


def weight_bytes(s: Scene) -> float:
    """Of an element on the wire: as it is kept."""
    return s.framework.gather_bytes or s.width


def elements(s: Scene, load: Load) -> Pair:
    """Of the stage, (dense, experts') elements of one rank's matrices that are kept in parts, whole."""
    layers = [_whole(s, operations) for operations in s.layers]
    dense, experts = (load.total(each[i] for each in layers) for i in (0, 1))
    joint = _whole(s, mtp_joint(s.layout.model))[0] if s.layout.model.mtp else 0
    ends = load.embedding + load.head * (1 + load.mtp)
    return dense + load.mtp * joint + ends * _vocabulary(s), experts


def matrices(s: Scene, load: Load) -> Number:
    """How many there are, an expert's each for itself."""
    return load.total(sum(_copies(s, operations)) for operations in s.layers) + load.embedding + load.head


def exposed(s: Scene, load: Load, forward: Number, backward: Number) -> Number:
    """Seconds of a step in which passes of so many seconds wait for weights, or for gradients to be scattered.

    Each weight is gathered while the one before it is used, but the embedding, which nothing comes before.
    """
    if not _on(s):
        return 0 * load.layers
    gather, scatter, first = _seconds(s, load)
    back = (1 + (s.layout.recompute == 2)) * gather + scatter
    return s.layout.microbatches * (beside(s, gather, forward) + beside(s, back, backward) + first)


def _on(s: Scene) -> bool:
    return s.degrees.parts.dense > 1 or s.degrees.parts.expert > 1


def _seconds(s: Scene, load: Load) -> tuple[Number, Number, Number]:
    """(gathering, scattering, what of both is the embedding's, which nothing hides) for one pass of a micro-batch."""
    wide, narrow = weight_groups(s)
    dense, experts = elements(s, load)
    words = load.embedding * _vocabulary(s)

    def sent(each: float) -> Number:
        return ring(s, wide, each * (dense - words)) + ring(s, narrow, each * experts)

    gather, scatter = weight_bytes(s), s.framework.reduce_bytes
    return sent(gather), sent(scatter), load.embedding * ring(s, wide, (gather + scatter) * words)


def buffers(s: Scene, load: Load) -> Number:
    """Bytes of what is gathered and of whole gradients that wait to be scattered.

    A buffer for each shape that stays (``GTPWeightCache``, ``_wgrad_buf_pool``): of a layer's matrices and of the
    vocabulary one, of experts two, since a whole block of them is gathered ahead; in 8 and 4 bits one for each pass.
    """
    if not _on(s):
        return 0 * load.layers
    passes = 2 if s.framework.gather_bytes else 1
    each = passes * weight_bytes(s) + s.framework.reduce_bytes
    largest = [_whole(s, operations) for operations in s.layers]
    dense, experts = (load.largest(kind[i] for kind in largest) for i in (0, 1))
    return each * (dense + 2 * experts + maximum(load.embedding, load.head) * _vocabulary(s))


def _whole(s: Scene, operations: Iterable[Operation]) -> Pair:
    """(dense, experts') elements of one rank that are kept in parts, gathered."""
    d, parts = s.degrees, s.degrees.parts
    weights = [w for o in operations for w in o.weights if w.rows]
    dense = sum(w.on_rank(d.tp, d.etp, d.ep) for w in weights if w.shard == "tp")
    experts = sum(w.on_rank(d.tp, d.etp, d.ep) for w in weights if w.shard == "expert")
    return (parts.dense > 1) * dense, (parts.expert > 1) * experts


def _copies(s: Scene, operations: Iterable[Operation]) -> Pair:
    """How many matrices they are."""
    parts = s.degrees.parts
    weights = [w for o in operations for w in o.weights if w.rows]
    experts = sum(w.copies // s.layout.ep for w in weights if w.shard == "expert")
    return (parts.dense > 1) * sum(w.shard == "tp" for w in weights), (parts.expert > 1) * experts


def _vocabulary(s: Scene) -> Number:
    """Elements of the embedding, and of the output projection, on one rank."""
    return (s.degrees.parts.dense > 1) * s.vocab * s.layout.model.hidden / s.layout.tp
