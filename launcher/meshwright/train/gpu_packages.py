"""Packages that import where there is no GPU, and fail in their first kernel."""

from __future__ import annotations

import sys

__all__ = ["hide"]


def hide() -> None:
    """Let Megatron find neither Transformer Engine nor APEX: they import without a GPU, and then fail in a kernel.

    Call it before anything of Megatron is imported: it chooses its optimizer and norms by what imports
    (megatron-core 0.19.2, core/optimizer/__init__.py:13).
    """
    for name in ("transformer_engine", "transformer_engine_torch", "apex", "amp_C", "fused_weight_gradient_mlp_cuda"):
        sys.modules[name] = None  # type: ignore[assignment]
