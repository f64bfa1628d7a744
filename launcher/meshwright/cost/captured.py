"""Which operations of a layer are inside CUDA graphs, and so started with them."""

from __future__ import annotations

from meshwright.spec import MegatronOptions

__all__ = ["captured"]

_SCOPES = {
    "attn": ("attention.",),
    "mlp": ("mlp.",),
    "moe": ("mlp.norm", "router", "latent.", "dispatch", "experts.", "combine", "shared_experts."),
    "moe_router": ("mlp.norm", "router", "shared_experts."),
    "moe_preprocess": (),
    "mamba": ("mamba.",),
}
"""Operations inside a graph of each module (core/transformer/transformer_layer.py, moe/moe_layer.py). Preparing a
dispatch is counted with the router, which brings it along; the dispatch itself is in no graph but that of padded
experts or of an iteration."""


def captured(options: MegatronOptions) -> tuple[str, ...]:
    """By the beginning of their names; whole layers and iterations hold all.

    Shared experts beside the dispatch are in no graph of a router (core/transformer/transformer_layer.py:1146).
    """
    graphs = options.cuda_graphs
    if graphs.kind == "none":
        return ()
    modules = (*graphs.modules, "moe_router") if "moe_preprocess" in graphs.modules else graphs.modules
    names = tuple(name for module in modules for name in _SCOPES.get(module, ())) if modules else ("",)
    beside = options.moe_shared_expert_overlap and "moe" not in modules
    return tuple(name for name in names if name != "shared_experts." or not beside)
