"""Which operations of a layer are inside CUDA graphs, and so started with them."""

from __future__ import annotations

from meshwright.spec import CudaGraphs

__all__ = ["captured"]

_SCOPES = {
    "attn": ("attention.",),
    "mlp": ("mlp.",),
    "moe_router": ("mlp.norm", "router", "shared_experts."),
    "moe_preprocess": (),
    "mamba": ("mamba.",),
}
"""Operations inside a graph of each module (core/transformer/transformer_layer.py, moe/moe_layer.py). Preparing a
dispatch is counted with the router; the dispatch itself is in no graph but a whole iteration's."""


def captured(graphs: CudaGraphs) -> tuple[str, ...]:
    """By the beginning of their names; whole layers and iterations hold all."""
    if graphs.kind == "none":
        return ()
    return tuple(name for module in graphs.modules for name in _SCOPES.get(module, ())) if graphs.modules else ("",)
