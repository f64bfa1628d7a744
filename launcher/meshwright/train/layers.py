"""Layers that stock Megatron-core lacks, for its ``--spec meshwright.train.layers NAME``.

Megatron calls the named function with its GPTModelConfig and builds the decoder from the ModuleSpec it returns. The
tests give these layers the weights of transformers' models and compare the logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.gpt import gpt_model
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor, nn

__all__ = ["alibi", "alibi_embedding_norm", "alibi_slopes", "amend", "install", "parallel_residual"]


def parallel_residual(config: Any, vp_stage: int | None = None) -> ModuleSpec:
    """Attention and MLP read the same residual, each behind a norm of its own (GPT-NeoX, Falcon 180B)."""
    return _specification(config, vp_stage, ("parallel_residual",))


def alibi(config: Any, vp_stage: int | None = None) -> ModuleSpec:
    """Linear biases on attention scores instead of positions (arXiv:2108.12409)."""
    return _specification(config, vp_stage, ("alibi",))


def alibi_embedding_norm(config: Any, vp_stage: int | None = None) -> ModuleSpec:
    """ALiBi, and a norm behind the embedding (BLOOM)."""
    return _specification(config, vp_stage, ("alibi", "embedding_norm"))


def _specification(config: Any, vp_stage: int | None, parts: tuple[str, ...]) -> ModuleSpec:
    from megatron.training.models.gpt import default_layer_spec

    layer = default_layer_spec(config, vp_stage)
    install(parts)
    amend(layer, parts)
    return layer


def amend(layer: ModuleSpec, parts: tuple[str, ...]) -> None:
    """Put the parts that belong to a layer into Megatron's own specification of it."""
    if "parallel_residual" in parts:
        layer.module = ParallelResidualLayer
    if "alibi" in parts:
        layer.submodules.self_attention.submodules.core_attention = AlibiAttention


def install(parts: tuple[str, ...], norm: Any = None) -> None:
    """Make GPTModel build the embedding with the parts that belong to it: a ModuleSpec holds the decoder only."""
    if "embedding_norm" in parts:
        NormedEmbedding.norm = norm
        gpt_model.LanguageModelEmbedding = NormedEmbedding


class ParallelResidualLayer(TransformerLayer):  # type: ignore[misc]
    """``x + attention(norm(x)) + mlp(norm(x))``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the layer's input for the MLP."""
        self._input = args[0] if args else kwargs["hidden_states"]
        return super().forward(*args, **kwargs)

    def _forward_pre_mlp_layernorm(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """What the MLP reads, and the residual it adds to: input plus attention."""
        normed = super()._forward_pre_mlp_layernorm(self._input)
        del self._input
        return normed, hidden_states


class NormedEmbedding(LanguageModelEmbedding):  # type: ignore[misc]
    """The embedding with a norm right behind the look-up, before dropout."""

    norm: Any = None  # how the norm is built; None: as the layers' norms are

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Take what Megatron's own embedding takes."""
        super().__init__(config, *args, **kwargs)
        build = type(self).norm or _norm(config)
        self.embedding_norm = build(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        self.word_embeddings.register_forward_hook(lambda _module, _inputs, output: self.embedding_norm(output))


def _norm(config: Any) -> Any:
    from megatron.core.models.backends import LocalSpecProvider

    rms = config.normalization == "RMSNorm"
    if config.transformer_impl != "transformer_engine":
        return LocalSpecProvider().layer_norm(rms_norm=rms, for_qk=False)
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm


class AlibiAttention(nn.Module):
    """Causal attention with ALiBi on ``[sequence, batch, heads/tp, channels]``, in PyTorch's own kernels."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        """Take Megatron's arguments of a core attention."""
        super().__init__()
        assert config.context_parallel_size == 1, "a rule of meshwright's refuses this"
        ranks, rank = pg_collection.tp.size(), pg_collection.tp.rank()
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.slopes = alibi_slopes(config.num_attention_heads).chunk(ranks)[rank]

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **_: Any) -> Tensor:
        """``[sequence, batch, heads/tp * channels]``."""
        out: Tensor = nn.functional.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            attn_mask=self._bias(query.shape[0], query),
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
            enable_gqa=True,
        )
        return out.permute(2, 0, 1, 3).flatten(2)

    def _bias(self, length: int, like: Tensor) -> Tensor:
        """``[1, heads/tp, length, length]``: minus slope * distance, minus infinity for what comes later."""
        place = torch.arange(length, device=like.device)
        distance = place[None, :] - place[:, None]
        bias: Tensor = self.slopes.to(like.device)[:, None, None] * distance
        return bias.masked_fill(distance > 0, -torch.inf).to(like.dtype)[None]


def alibi_slopes(heads: int) -> Tensor:
    """``[heads]``: 2^(-8/n), 2^(-16/n), ... for n heads, n a power of two; the rest between those of 2n heads."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(first + between)
