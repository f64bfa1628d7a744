"""Parts of a model that stock Megatron-core lacks and our layer specification (``--spec``) brings along."""

from __future__ import annotations

from meshwright.spec_model import Model

__all__ = ["MODULE", "SPECS", "parts", "spec_name"]

MODULE = "meshwright.train.layers"

SPECS = {
    ("alibi",): "alibi",
    ("alibi", "embedding_norm"): "alibi_embedding_norm",
    ("parallel_residual",): "parallel_residual",
}
"""Parts -> the function of MODULE that builds layers with them; other combinations have no model to compare with."""


def parts(model: Model) -> tuple[str, ...]:
    """The parts that ``model`` needs, sorted; empty for what stock Megatron-core has itself."""
    needed = {
        "alibi": model.positions == "alibi",
        "embedding_norm": model.embedding_norm,
        "parallel_residual": model.parallel_residual,
    }
    return tuple(sorted(part for part, need in needed.items() if need))


def spec_name(model: Model) -> str | None:
    """What ``--spec`` names beside MODULE; None where stock layers do."""
    return SPECS.get(parts(model))
