"""Parts of a model that stock Megatron-core lacks and our layer specification (``--spec``) brings along."""

from __future__ import annotations

from meshwright.spec.model import Model

__all__ = ["ATTENTION_SOFTCAP", "FINAL_SOFTCAP", "MODULE", "SPECS", "parts", "spec_name"]

MODULE = "meshwright.train.layers"

ATTENTION_SOFTCAP, FINAL_SOFTCAP = 50.0, 30.0
"""Soft caps that our layers know: those of all Gemma 2 (arXiv:2408.00118, section 2)."""

SPECS = {
    ("alibi",): "alibi",
    ("alibi", "embedding_norm"): "alibi_embedding_norm",
    ("attention_softcap", "final_softcap", "geglu_tanh", "sandwich_norm"): "gemma2",
    ("parallel_residual",): "parallel_residual",
}
"""Parts -> the function of MODULE that builds layers with them; other combinations have no model to compare with."""


def parts(model: Model) -> tuple[str, ...]:
    """The parts that ``model`` needs, sorted; empty for what stock Megatron-core has itself."""
    needed = {
        "alibi": model.positions == "alibi",
        "attention_softcap": model.attention_softcap is not None,
        "embedding_norm": model.embedding_norm,
        "final_softcap": model.final_softcap is not None,
        "geglu_tanh": model.activation == "geglu_tanh",
        "parallel_residual": model.parallel_residual,
        "sandwich_norm": model.norm_placement == "sandwich",
    }
    return tuple(sorted(part for part, need in needed.items() if need))


def spec_name(model: Model) -> str | None:
    """What ``--spec`` names beside MODULE; None where stock layers do."""
    return SPECS.get(parts(model))
