"""Latent attention whose queries are not compressed."""

from __future__ import annotations

from typing import Any

from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mla_qk_norm_config import QKNormConfigResolver
from megatron.core.transformer.multi_latent_attention import MLASelfAttention

__all__ = ["PlainQueries", "with_plain_queries"]


class PlainQueries(MLASelfAttention):  # type: ignore[misc]
    """Megatron's, without the norm over the hidden size that it puts before a projection of whole queries."""

    def _resolve_qk_norm_config(self, submodules: Any) -> Any:
        return _Plain(self.config, submodules).resolve()


class _Plain(QKNormConfigResolver):  # type: ignore[misc]
    def _mla_fused_linear_or_default(self, module_spec: Any, module_name: str) -> Any:
        if module_name == "linear_q_proj":
            return module_spec
        return super()._mla_fused_linear_or_default(module_spec, module_name)


def with_plain_queries(layer: Any) -> None:
    """Have the specification of ``layer`` build it."""
    attention = layer.submodules.self_attention
    attention.module, attention.submodules.q_layernorm = PlainQueries, IdentityOp
