"""Attention that Megatron-core and Transformer Engine lack, on ``[sequence, batch, heads/tp, channels]``.

Both see whole sequences: a rule refuses context parallelism with them.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from megatron.core.transformer.utils import is_layer_window_attention
from torch import Tensor, nn

__all__ = ["AlibiAttention", "SoftcapAttention", "alibi_slopes"]


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


class SoftcapAttention(nn.Module):
    """Causal attention whose scores are ``cap * tanh(scores / cap)``, over all tokens or a sliding window (Gemma 2).

    Flex attention on a GPU, which keeps no scores; it has no backward on a CPU, where they are written out.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        part: float = 0.0,
        **_: Any,
    ) -> None:
        """Take Megatron's arguments of a core attention; ``part`` is the cap."""
        super().__init__()
        assert config.context_parallel_size == 1, "a rule of meshwright's refuses this"
        self.cap = part
        assert not config.attention_dropout, "a rule of meshwright's refuses this"
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        windowed = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number)
        self.back = config.window_size[0] if windowed else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **_: Any) -> Tensor:
        """``[sequence, batch, heads/tp * channels]``."""
        attend = flexible if query.is_cuda else written_out
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out = attend(query, key, value, self.scale, self.back, self.cap)
        return out.permute(2, 0, 1, 3).flatten(2)


def written_out(query: Tensor, key: Tensor, value: Tensor, scale: float, back: int | None, cap: float) -> Tensor:
    """``[batch, heads, sequence, channels]``, scores in fp32, step by step as transformers' eager attention."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores: Tensor = _capped(cap)((query @ key.transpose(2, 3)).float() * scale)
    place = torch.arange(query.shape[2], device=query.device)
    hidden = ~_sees(back)(None, None, place[:, None], place[None, :])
    return scores.masked_fill(hidden, -torch.inf).softmax(-1).to(value.dtype) @ value


def flexible(query: Tensor, key: Tensor, value: Tensor, scale: float, back: int | None, cap: float) -> Tensor:
    """The same by PyTorch's flex attention."""
    from torch.nn.attention.flex_attention import flex_attention

    run = _compiled(flex_attention) if query.is_cuda else flex_attention
    mask = _block_mask(query.shape[2], back, query.device)
    out: Tensor = run(query, key, value, score_mod=_capped(cap), block_mask=mask, scale=scale, enable_gqa=True)
    return out


_compiled: Any = cache(torch.compile)


@cache
def _block_mask(length: int, back: int | None, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(_sees(back), None, None, length, length, device=device)


@cache
def _capped(cap: float) -> Any:
    def capped(score: Tensor, *_: Any) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


def _sees(back: int | None) -> Any:
    """Who sees whom: what came before, not more than ``back`` tokens before (None: all)."""

    def sees(_batch: Any, _head: Any, query: Tensor, key: Tensor) -> Tensor:
        causal = query >= key
        return causal if back is None else causal & (query - key <= back)

    return sees
