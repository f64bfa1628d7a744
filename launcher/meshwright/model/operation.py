"""What an operation of a layer is made of: weights and tensors, and how degrees cut them."""

from __future__ import annotations

from typing import Any, Literal

from meshwright.spec.frozen import dataclass

__all__ = [
    "FUSED",
    "WHOLE",
    "Casts",
    "Cut",
    "Degrees",
    "Kernels",
    "Number",
    "Operation",
    "Parts",
    "Shard",
    "Tensor",
    "Weight",
]

Number = Any  # an int, or a NumPy array of them
Shard = Literal["tp", "expert", "replicated"]
Cut = Literal["tp", "sequence", "gathered", "routed", "expert", "replicated"]


@dataclass(frozen=True)
class Parts:
    """Generalized tensor parallelism: parts in which ranks keep a weight's rows; each a multiple of ``align`` rows."""

    dense: int = 1
    expert: int = 1
    align: int = 16

    def of(self, elements: Number, rows: Number, parts: int) -> Number:
        """Elements of one of ``parts``, with the rows it is padded by (``gtp_remat_shard_dim0``)."""
        return elements // rows * (-(-rows // (self.align * parts)) * self.align)


WHOLE = Parts()
"""No generalized tensor parallelism."""


@dataclass(frozen=True)
class Degrees:
    """What cuts a layer's tensors: ``sequence`` is tp where sequence parallelism is on, else 1.

    ``gathered`` is the same where the backward gathers a linear's input again instead of keeping all of it. ``load``
    of an even share of the tokens is what an expert takes.
    """

    tp: Number
    sequence: Number
    gathered: Number
    etp: Number
    ep: Number
    parts: Parts = WHOLE
    load: Number = 1


@dataclass(frozen=True)
class Kernels:
    """Which implementation runs; what is not fused writes its intermediate results.

    ``flash``: attention never stores its scores. ``activation``, ``norm``, ``residual``: one kernel for a gated
    activation, for a norm, for bias with dropout and residual. ``joined``: a norm and the linear behind it are one
    module, so that the norm cannot be recomputed by itself. ``eight_bit``: matrix products take 8-bit inputs and
    keep those for the backward (transformer_engine/pytorch/module/linear.py saves the quantized input). ``low_bytes``:
    of an element of these, fewer than 1 in 4 bits. ``router``, ``permute``: experts are scored and chosen, and tokens
    sorted to them and back, by one kernel each. ``fused_experts``: their activation is in the products around it.
    ``kept``: bytes of an element that the named products keep, where these are others.
    ``pieced_biases``: experts' biases are added expert by expert. ``rope``: rotary positions by one kernel.
    ``casts``: an RMSNorm of several kernels keeps its input in 32 bits instead of 16, unfused attention its
    probabilities in both, and keys and values once for each query (transformers).
    ``sparse``: attention with an indexer computes the chosen scores alone.
    ``weighs_outputs``: what experts gave is multiplied by their scores, and kept for that; Megatron weighs inside the
    activation instead (megatron-core 0.19.2, core/transformer/moe/experts.py:830), so that nothing is kept.
    """

    flash: bool = True
    activation: bool = True
    norm: bool = True
    residual: bool = True
    joined: bool = True
    eight_bit: bool = False
    low_bytes: float = 1.0
    router: bool = False
    fused_experts: bool = False
    pieced_biases: bool = False
    rope: bool = True
    permute: bool = False
    weighs_outputs: bool = False
    casts: bool = False
    sparse: bool = False
    kept: tuple[tuple[str, float], ...] = ()

    def input_bytes(self, product: str) -> float:
        """Of an element that only a matrix ``product`` keeps; with a dot at its end, one that enters such a part."""
        own = next((size for name, size in self.kept if _is_meant(name, product)), None)
        return (self.low_bytes if self.eight_bit else 2) if own is None else own

    def input_width(self, product: str, channels: float) -> float:
        """Elements as torch counts those of ``channels`` that only a ``product`` keeps: two of 4 bits are one."""
        return channels if self.input_bytes(product) >= 1 else channels / 2


def _is_meant(name: str, product: str) -> bool:
    enters = product.endswith(".") and not name.endswith((".output", ".down"))
    return name == product or (enters and name.startswith(product))


FUSED = Kernels()
"""What Transformer Engine runs."""


@dataclass(frozen=True)
class Weight:
    """A parameter tensor: ``elements`` of the whole tensor, and how it is cut.

    ``expert`` means one of ``copies`` experts, each cut over etp and the experts dealt out over ep. ``rows`` are the
    outputs of a matrix, 0 of what is none; generalized tensor parallelism keeps those that are cut in parts.
    ``inputs_cut``: tensor parallelism cuts its other side.
    """

    name: str
    elements: int
    shard: Shard
    copies: int = 1
    rows: Number = 0
    inputs_cut: bool = False

    def on_rank(self, tp: Number, etp: Number, ep: Number, parts: Parts = WHOLE) -> Number:
        """Elements of this tensor on one rank."""
        if self.shard == "tp":
            return self._part(self.elements // tp, tp, parts, parts.dense)
        if self.shard == "expert":
            return self._part(self.elements // etp, etp, parts, parts.expert) * (self.copies // ep)
        return self.elements * self.copies

    def _part(self, elements: Number, tensor: Number, parts: Parts, ways: int) -> Number:
        if ways == 1 or (isinstance(self.rows, int) and not self.rows):
            return elements
        return parts.of(elements, self.rows if self.inputs_cut else self.rows // tensor, ways)


@dataclass(frozen=True)
class Tensor:
    """Bytes for each token of a micro-batch; ``squared`` ones are multiplied by the sequence length as well.

    ``recompute`` names the module whose selective recomputation frees it (Megatron's ``--recompute-modules``);
    ``entering`` the one whose recomputation alone keeps it, to begin again with. ``given``: what the operation gives,
    which the next one reads; else what it read or made on the way. ``widths``: for each token, elements of each of the
    tensors that stand here as one; none said: one of 16 bits.
    """

    size: float
    cut: Cut
    recompute: str = ""
    squared: bool = False
    entering: str = ""
    given: bool = False
    widths: tuple[float, ...] = ()

    def on_rank(self, degrees: Degrees) -> Number:
        """Bytes for each token on one rank; a routed token is copied to every rank of its etp group."""
        if self.cut == "routed":
            return self.size * degrees.etp / degrees.tp * degrees.load
        if self.cut == "expert":
            return self.size / degrees.tp * degrees.load
        return self.size / (1 if self.cut == "replicated" else getattr(degrees, self.cut))


Casts = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Elements that are quantized where products take 8 or 4 bits: inputs forward, outputs' gradients backward."""


@dataclass(frozen=True)
class Operation:
    """A named step of a layer.

    ``saved`` is kept for the backward pass, ``moved`` read and written by the forward's kernels beside the weights,
    ``returned`` by the backward's beyond twice as much, ``turned`` besides where a micro-batch has several sequences.
    A matrix product does ``2*tokens*weight`` FLOPs; ``scores`` is the width over which attention multiplies with every
    earlier token (query-key plus probability-value), or the last ``window`` of them; ``products`` are multiplications
    of a token with states, without weights, cut over ``tp``. ``computed``: the width that a kernel multiplies, where it
    is another than the model's; ``single``: of that, what is multiplied in 32 bits. ``dense``: every pair of tokens is
    computed, those behind the mask, too. ``shared``: every rank of the tensor-parallel group does all of it.
    ``region``: the input enters, or the output leaves, the part of the layer that ``tp`` cuts; a routed token enters
    and leaves its expert. ``joined``: the norm before it is one module with it.
    """

    name: str
    weights: tuple[Weight, ...] = ()
    saved: tuple[Tensor, ...] = ()
    moved: tuple[Tensor, ...] = ()
    returned: tuple[Tensor, ...] = ()
    turned: tuple[Tensor, ...] = ()
    scores: int = 0
    window: int | None = None
    computed: int = 0
    single: int = 0
    dense: bool = False
    shared: bool = False
    products: int = 0
    topk: int = 1
    region: Literal["", "enter", "leave", "dispatch", "combine"] = ""
    kernels: int = 1
    casts: Casts = ((), ())
    joined: bool = False
