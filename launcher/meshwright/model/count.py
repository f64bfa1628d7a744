"""Exact parameters: of a model, of a rank of a pipeline stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshwright.layout.grid import Grid
from meshwright.layout.plan import Chunk, Stage
from meshwright.model.kinds import count_kinds
from meshwright.model.operation import WHOLE, Number, Parts
from meshwright.model.operations import Operation, decoder_layer, embedding, final_norm, head, mtp_layer, parameters
from meshwright.spec import Backend, Model, Spec
from meshwright.spec.measured import MeasuredLayer

__all__ = [
    "active",
    "active_parameters",
    "cuts_head",
    "cuts_vocabulary",
    "cuts_words",
    "padded_vocab",
    "parts_of",
    "stage",
    "total_parameters",
]


def padded_vocab(model: Model, backend: Backend, tp: Number) -> Number:
    """The vocabulary rounded up to a multiple of ``vocab_divisor*tp`` (megatron/training/vocab_utils.py).

    Other backends train transformers' models as they are.
    """
    multiple = backend.megatron.vocab_divisor * tp if backend.name == "megatron" else 1
    return -(-model.vocab // multiple) * multiple


def total_parameters(model: Model) -> int:
    """Of the whole unpadded model, without multi-token prediction: what transformers counts."""
    layers = sum(
        parameters(decoder_layer(model, kind))[0] * n for kind, n in count_kinds(model, 0, model.layers).items()
    )
    ends = (*embedding(model, model.vocab), *final_norm(model), *head(model, model.vocab, model.tied_embeddings))
    return int(layers + parameters(ends)[0])


def routed_parameters(model: Model) -> int:
    """Of all routed experts."""
    return sum(parameters(decoder_layer(model, kind))[1] * n for kind, n in count_kinds(model, 0, model.layers).items())


def active_parameters(model: Model) -> int:
    """Parameters one token passes through: ``topk`` of the routed experts, everything else whole."""
    if model.measured is not None:
        return total_parameters(model) - sum(_idle(model.measured.kinds[index]) for index in model.measured.order)
    if model.moe is None:
        return total_parameters(model)
    layers = count_kinds(model, 0, model.layers)
    idle = (
        (parameters(layer)[0] - active(layer, model)) * n
        for kind, n in layers.items()
        for layer in [decoder_layer(model, kind)]
    )
    return total_parameters(model) - sum(map(int, idle))


def active(operations: Iterable[Operation], model: Model) -> int:
    """Parameters of one layer's ``operations`` that a token passes through."""
    whole, experts = parameters(operations)
    routed = experts * model.moe.topk // model.moe.experts if model.moe else 0
    return int(whole - experts + routed)


def _idle(layer: MeasuredLayer) -> int:
    """Parameters of the experts that a token does not visit."""
    return layer.expert_parameters - layer.expert_parameters * layer.topk // layer.experts


def parts_of(spec: Spec) -> Parts:
    """In which generalized tensor parallelism keeps matrices (megatron/core/tensor_parallel, ``GTPRematConfig``)."""
    p = spec.parallelism
    return Parts(p.gtp, p.egtp, 32 if spec.training.precision == "mxfp8" else 16)


def cuts_vocabulary(model: Model, backend: Backend) -> bool:
    """Whether tensor-parallel ranks keep the logits cut, and take the loss of their parts.

    AutoTP does where it is told to, else where head and embedding are one and transformers' embedding does not scale by
    itself, but for Gemma 3's (DeepSpeed 0.19.8, runtime/engine.py:1114; module_inject/layers.py:1110), and transformers
    has a plan of the model (:1095).
    """
    if backend.name == "megatron":
        return True
    asked = backend.deepspeed.autotp.vocabulary
    plain = model.embedding_scale is None or model.transformers == "gemma3_text"
    return (model.tied_embeddings and plain and _planned(model)) if asked is None else asked


def _planned(model: Model) -> bool:
    from meshwright.model.architecture_table import ARCHITECTURES, architecture_of  # read for DeepSpeed alone

    return model.transformers not in ARCHITECTURES or architecture_of(model).tp_plan


def cuts_words(model: Model, backend: Backend) -> bool:
    """Whether they share the embedding's rows: AutoTP's where the head that is one with it is cut."""
    return backend.name == "megatron" or (model.tied_embeddings and cuts_vocabulary(model, backend))


def cuts_head(model: Model, backend: Backend) -> bool:
    """Whether they share the head's rows: AutoTP's do, but for a head that is one with a whole embedding."""
    return backend.name == "megatron" or not model.tied_embeddings or cuts_vocabulary(model, backend)


def stage(
    model: Model, chunks: tuple[Chunk, ...], vocab: int, grid: Grid, backend: Backend, parts: Parts = WHOLE
) -> Stage:
    """A pipeline stage with the parameters of one of its ranks; ``vocab`` is padded."""
    counted = [
        (count * n, experts * n)
        for chunk in chunks
        for operations, n in _chunk_operations(model, chunk, vocab, backend)
        for count, experts in [parameters(operations, grid.tp, grid.etp, grid.ep, parts)]
    ]
    return Stage(chunks, sum(count for count, _ in counted), sum(experts for _, experts in counted))


def _chunk_operations(
    model: Model, chunk: Chunk, vocab: int, backend: Backend
) -> Iterator[tuple[tuple[Operation, ...], int]]:
    """Groups of operations and how many times each stands on the chunk."""
    if chunk.embedding or chunk.mtp:  # MTP reads the embedding: a stage without it holds a copy
        yield embedding(model, vocab, cuts_words(model, backend)), 1
    for kind, count in count_kinds(model, chunk.first, chunk.layers).items():
        yield decoder_layer(model, kind), count
    if chunk.final_norm:
        yield final_norm(model), 1
    if chunk.mtp:
        yield mtp_layer(model), 1 if model.mtp_repeated else chunk.mtp
    if chunk.loss:
        yield head(model, vocab, model.tied_embeddings and chunk.embedding, cuts_head(model, backend)), 1
