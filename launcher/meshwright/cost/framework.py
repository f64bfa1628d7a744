"""What a training framework does that a layout does not say: kernels, loss, how states are kept, what overlaps."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from meshwright.cost.framework_deepspeed import deepspeed
from meshwright.cost.framework_megatron import megatron
from meshwright.cost.numbers import Number
from meshwright.model.low_precision import Casts
from meshwright.model.operation import FUSED, Kernels
from meshwright.rules import Layout
from meshwright.spec.frozen import dataclass

__all__ = ["SPREAD", "Framework", "framework_of"]

SPREAD = 0.10
"""80 % of the peaks in data/measured.csv lie within exp(-SPREAD) and exp(SPREAD) times ours; a test says so."""


@dataclass(frozen=True, kw_only=True)
class Framework:
    """Bytes are for each logit or parameter.

    ``loss_bytes``: of the logits and what the loss keeps beside them when its backward begins. ``gathered_loss``:
    every tp rank sees the whole vocabulary; Megatron's own loss keeps fp32 probabilities beside its part.
    ``dummy_gradients``: Transformer Engine's persistent buffers. ``tf32``: its cublaslt_gemm.cu, in fp32.
    """

    kernels: Kernels = FUSED
    tiles: tuple[int, int] = (1, 1)  # pieces of a micro-batch's tokens for the loss and for dense MLPs, computed twice
    autocast: bool = False  # products read 16 bits of weights in fp32
    tf32: bool = False  # weights in fp32 are multiplied in TF32, which PyTorch's own products do not take
    loss_bytes: Number = 10.0
    attention_tflops: float = inf  # that products of fused attention reach at most, whatever the GPU
    fused_loss: bool = False  # a few kernels
    gathered_loss: bool = False
    gathered_bytes: float = (
        0.0  # of such a logit beside those of the loss, where tensor-parallel ranks hold parts of it
    )
    gathers_logits: bool = False  # the same, and time for it: the parts of the logits are gathered, each rank takes all
    dummy_gradients: Number = True
    weight_bytes: Number = 2.0
    coded_bytes: Number = 0.0  # of these, what fewer bits add to 16 or spare of them; not of embedding and head
    gradient_bytes: Number = 4.0
    optimizer_bytes: Number = 12.0
    transposes: float = 0.0  # of each whole weight, gathered or not, that stays between the passes
    sums_in_switches: bool = False  # an all-reduce of gradients sends them up once, not round
    end_bytes: float = 0.0  # states beside these of embedding, head and last norm, whose optimizer is another
    optimizer_away: Number = 0.0  # part of the states that leaves the GPU
    step_bytes: Number = 0.0  # of a parameter, beside its states while the optimizer steps
    reduce_bytes: float = 4.0  # of a gradient on the wire
    fsdp2: Number = False  # ZeRO-2 keeps a gathered 16-bit copy beside the shards
    hides: Number = 0.0  # part of what ranks with the same weights exchange that runs beside compute, at least
    whole_gradients: float = 0.0  # ZeRO-2 and 3 sum what is shared in so many bytes, and scatter it once a step
    emptied_every: int = 0  # micro-batches, after which a pipeline runs dry, reduces and gathers anew; 0: with the step
    batch_first: bool = False  # hidden states lie sequence by sequence; Megatron's, token by token of all sequences
    ends_early: bool = False  # what is recomputed ends with the last tensor that a backward needs (``recomputation``)
    regathers: bool = True  # with sp, a linear's input is gathered again in the backward, not kept
    boundary_bytes: float = 0.0  # kept for each hidden element of each micro-batch that a stage holds, layers apart
    pass_bytes: float = 0.0  # of a hidden element of one micro-batch, what its backward leaves cached beside the rest
    waiting: tuple[float, float] = (0.0, 0.0)  # of a whole one, with tp; and beside it where the host runs ahead
    fixed_gib: float = 0.0  # allocated whatever the layout
    softmax_in_pieces: Number = False  # unfused attention's is several kernels
    score_bytes: Number = 12.0  # of a 16-bit score, at once, while unfused attention's softmax runs backward
    score_buffer: float = 0.0  # of a score, which stays allocated for the product that makes it
    gather_bytes: float = 0.0  # of a weight that is gathered; 0: an activation's width
    casts: Casts | None = None  # where products are in 8 or 4 bits
    coded: tuple[float, float] = (2.0, 2.0)  # of what tp gathers with sequence parallelism: inputs, outputs' gradients
    scatter_bytes: float = 0.0  # of a gradient that ZeRO-3 scatters; 0: as it is summed
    secondary: int = 1  # ranks that hold a second copy of what ZeRO-3 gathers, and gather it again among themselves
    low_layers: float = 1.0  # part of the layers whose products are in the low precision, if there is one
    low_head: bool = False  # the head's, too
    own_precision: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()  # operation: (precision, part of layers)
    registers: bool = False  # tensor-parallel ranks exchange in buffers that the engine registers
    sends_once: bool = False  # a routed token leaves its node once for each node with experts of its own
    reads_counts: bool = True  # the host waits for the router's counts of tokens; not where experts are padded to one
    deals_tokens: bool = False  # a benchmark's gate: each token to the next k experts, none of them chosen
    captured: tuple[str, ...] = ()  # operations inside CUDA graphs, by the beginning of their names
    captures_all: bool = False  # one graph holds the whole iteration
    holds_graphs: bool = True  # graphs by layer are captured already when the peak is taken
    expert_room: float = 1.0  # of tensors of an expert's tokens, times those it would get were they dealt evenly
    expert_pages: float = 0.0  # of pages that hold what experts keep, the same; 0: it stays where it was made
    memory_spread: float = SPREAD  # see there
    grouped_workspace: float = 0.0  # bytes that products of grouped experts write to between their pieces
    dispatcher_copies: float = 0.0  # hidden states of a rank's tokens for each rank of the group, in fixed buffers
    expert_launches: float = 1.6  # host time of each local expert's weight in a grouped product, in operations'
    gradient_launches: float = 0.0  # of each weight's gradient that a hook adds to its buffer, the same
    fused_gradients: bool = True  # added to their buffer by the matrix product that makes them
    overlaps_gradients: bool = True  # a tensor-parallel rank communicates while it computes weight gradients
    exchanges_heads: bool = False  # context parallelism exchanges heads for tokens; else keys go round a ring
    overlaps_gather: bool = False  # new parameters are gathered while the forward pass runs
    reduces_whole: bool = False  # ZeRO-3 all-reduces gradients, of which each rank keeps its part
    reduces_after: Number = 0  # ZeRO-1 does, in their own buffers, once the backward is over
    gradient_passes: Number = 0.0  # bytes of each gradient of a micro-batch through memory, beside product and sum
    scattered_sends: bool = False  # a pipeline stage sends 1/tp of its output and the receiver gathers it


FRAMEWORKS: dict[str, Callable[[Layout], Framework]] = {
    "megatron": lambda layout: Framework(**megatron(layout)),
    "deepspeed": lambda layout: Framework(**deepspeed(layout)),
}


def framework_of(layout: Layout) -> Framework:
    """The Framework of the layout's backend, by that backend's own options alone."""
    return FRAMEWORKS[layout.backend.name](layout)
