"""Sparse attention on Megatron-core. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from meshwright.model.kinds import mixers
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import implies, megatron_rule
from meshwright.spec import Model

__all__ = ["RULES"]

_HERE = "core/transformer/experimental_attention_variant"


def _indexed(model: Model) -> bool:
    return model.indexer is not None


RULES = (
    megatron_rule(
        "latent_beside",
        "model.pattern",
        lambda r: (
            mixers(r.model).isdisjoint({"latent_attention", "sparse_attention"}) or "attention" not in mixers(r.model)
        ),
        "Megatron has no attention with heads (*) beside latent (+) or sparse attention (D) in one model",
        "core/models/hybrid/hybrid_layer_allocation.py:297; GPTModel has one kind",
    ),
    megatron_rule(
        "sparse_queries",
        "model.mla.q_lora_rank",
        lambda r: r.model.mla is None or r.model.mla.q_lora_rank is not None,
        "Megatron's indexer reads compressed queries, and model.mla.q_lora_rank is not set",
        "core/transformer/mla_qk_norm_config.py:114",
        change(model__indexer=None),
        where=_indexed,
    ),
    megatron_rule(
        "sparse_bias",
        "model.linear_bias",
        lambda r: not r.model.linear_bias,
        "Megatron's sparse attention has no biases",
        "core/transformer/transformer_config.py:1385",
        change(model__linear_bias=False),
        where=_indexed,
    ),
    megatron_rule(
        "sparse_tp",
        "parallelism.sp",
        lambda r: implies(r.tp > 1, r.sp > 0),
        "Megatron's sparse attention runs under tp = {tp} with sequence parallelism alone",
        f"{_HERE}/absorbed_mla.py:160",
        any_of(change(parallelism__sp=True), change(parallelism__tp=1)),
        where=_indexed,
    ),
    megatron_rule(
        "sparse_cp",
        "parallelism.cp_comm",
        lambda r: implies(r.cp > 1, r.spec.parallelism.cp_comm == "all_gather"),
        "under cp = {cp} Megatron's sparse attention gathers what is compressed: cp_comm must be all_gather",
        "core/transformer/transformer_config.py:2839",
        any_of(change(parallelism__cp_comm="all_gather"), change(parallelism__cp=1)),
        where=_indexed,
    ),
    megatron_rule(
        "sparse_transformer",
        "backend.megatron.transformer",
        lambda r: r.backend.megatron.transformer == "transformer_engine",
        "layers with an indexer are made of Transformer Engine's modules alone",
        "core/models/gpt/experimental_attention_variant_module_specs.py:444",
        change(backend__megatron__transformer="transformer_engine"),
        where=_indexed,
    ),
    megatron_rule(
        "sparse_kernels",
        "backend.megatron.dsa_kernels",
        lambda r: r.backend.megatron.dsa_kernels == "none" or r.model.indexer is not None,
        "these kernels attend to what an indexer chose, and model.indexer is not set",
        "ours: Megatron would ignore it",
        change(backend__megatron__dsa_kernels="none"),
    ),
)
