"""Sparse attention (DSA): latent attention to the tokens that an indexer scores highest (DeepSeek-V3.2, section 2.1).

Parameters as megatron/core/transformer/experimental_attention_variant/dsa.py makes them: every rank of a
tensor-parallel group holds the whole indexer, and scores the whole sequence. Attention reads what is compressed, one
head for all: the up-projections of keys and values are multiplied with queries and with what was read
(absorbed_mla.py), as many products as multiplying them with every token. Without a kernel for the chosen tokens, the
scores of all pairs are computed, from inputs cast to 32 bits, and written (``_unfused_absorbed_dsa_fn``,
``_compute_index_scores``); what they weigh is multiplied in 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.model.layers.attention import core
from meshwright.model.layers.latent_attention import compressed, latent, projections
from meshwright.model.layers.part import Exchange, Part
from meshwright.model.layers.shared import linear
from meshwright.model.operation import Kernels, Operation, Tensor, Weight
from meshwright.spec.model import Indexer, Model

__all__ = ["SPARSE_ATTENTION"]


def _sparse_attention(model: Model, kernels: Kernels) -> Iterator[Operation]:
    yield from projections(model, kernels)
    yield from _indexer(model, kernels)
    yield _core(model, kernels)
    yield linear("attention.output", model.heads * latent(model).v_dim, model.hidden, row=True)


def _indexer(model: Model, kernels: Kernels) -> Iterator[Operation]:
    """Its projections and the scores of every earlier token, with which nothing is multiplied but the weights."""
    indexer, mla = _options(model), latent(model)
    width = indexer.heads * indexer.head_dim
    yield linear("indexer.query", mla.q_lora_rank or model.hidden, width, "replicated")
    yield linear("indexer.key", model.hidden, indexer.head_dim, "replicated")
    names = ("indexer.key_norm.weight", "indexer.key_norm.bias")  # a LayerNorm whatever the model's norms are
    kept = (Tensor(4 * indexer.head_dim, "replicated"),)
    yield Operation(
        "indexer.key_norm", tuple(Weight(name, indexer.head_dim, "replicated") for name in names), kept, kept
    )
    yield linear("indexer.weights", model.hidden, indexer.heads, "replicated")
    yield _scoring(indexer, kernels)


def _scoring(indexer: Indexer, kernels: Kernels) -> Operation:
    """Keeps queries, keys, weights and the choice for the backward of its loss, which computes the scores again."""
    width = indexer.heads * indexer.head_dim
    trained = 2 * (width + indexer.head_dim + indexer.heads) if indexer.loss else 0
    chosen = (4 if kernels.sparse else 8) * indexer.topk  # kernels number tokens in 32 bits, torch's topk in 64
    passes = 4 if kernels.sparse else 16 * indexer.heads + 8  # product, relu, weighting and sum, each in 32 bits
    return Operation(
        "indexer.core",
        saved=(Tensor(trained + chosen, "replicated"),),
        moved=(Tensor(2 * width + chosen, "replicated"), Tensor(passes, "replicated", squared=True)),
        scores=width,
        single=0 if kernels.sparse else width,
        dense=not kernels.sparse,
        shared=True,
        kernels=2 if kernels.sparse else 8,
    )


def _core(model: Model, kernels: Kernels) -> Operation:
    """Over the chosen tokens; scores are latent attention's, and what is multiplied is wider: the compressed tokens."""
    mla = latent(model)
    queries = model.heads * (mla.qk_nope_dim + mla.qk_rope_dim)
    absorbed = model.heads * (mla.kv_lora_rank + mla.qk_rope_dim)
    read = model.heads * mla.kv_lora_rank
    asked, scores = queries + model.heads * mla.v_dim, absorbed + read
    found = core(model, (absorbed,), read, asked, replace(kernels, flash=True))
    found = replace(found, window=_options(model).topk, computed=scores)
    if kernels.sparse:
        return found
    pairs = Tensor(6 * model.heads, "tp", "core_attn", squared=True)  # probabilities in 32 bits, and in 16 to multiply
    passes = Tensor(34 * model.heads, "tp", squared=True)  # product, mask, softmax and cast, read and written
    saved, moved = (*found.saved, pairs), (*found.moved, passes)
    return replace(found, saved=saved, moved=moved, dense=True, single=absorbed, kernels=12)


def _options(model: Model) -> Indexer:
    assert model.indexer is not None
    return model.indexer


def _gathered(model: Model) -> int:
    """What was compressed, and again for the indexer, with the layer's input."""
    return compressed(model) + (latent(model).q_lora_rank or 0) + model.hidden


def _exchange(model: Model) -> Exchange:
    mla = latent(model)
    return Exchange(
        output=model.heads * mla.v_dim, shared=mla.kv_lora_rank + mla.qk_rope_dim + _options(model).head_dim
    )


SPARSE_ATTENTION = Part(
    symbol="D",
    options=("mla", "indexer"),
    operations=_sparse_attention,
    norm="attention.norm",
    own_norm=True,
    gathered=_gathered,
    exchange=_exchange,
)
