"""Embeddings that Megatron-core lacks: with a norm, a scale of the words alone, positions of sines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from torch import Tensor, nn

from meshwright.train.norms import default_norm

__all__ = ["Embedding", "Sinusoids", "sines"]


class Embedding(LanguageModelEmbedding):  # type: ignore[misc]
    """Megatron's embedding with ``parts`` of ``model.megatron_parts``; ``norm`` builds its norm (None: theirs)."""

    parts: Mapping[str, Any] = {}
    norm: Any = None

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Take what Megatron's own embedding takes."""
        super().__init__(config, *args, **kwargs)
        if "embedding_scale" in self.parts:
            scale = float(self.parts["embedding_scale"])
            self.word_embeddings.register_forward_hook(lambda _module, _inputs, output: output * scale)
        if "positions" in self.parts:
            kind, offset = str(self.parts["positions"]).split(":")
            self.position_embeddings = Sinusoids(self.max_sequence_length, config.hidden_size, kind, int(offset))
        if "embedding_norm" in self.parts:
            self._add_norm(config)

    def _add_norm(self, config: Any) -> None:
        """Of words and positions together where both are added, unless it is said to be of words; before dropout."""
        build = type(self).norm or default_norm(config)
        self.embedding_norm = build(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        if self.add_position_embedding and self.parts["embedding_norm"] != "words":
            self.embedding_dropout.register_forward_pre_hook(lambda _module, inputs: self.embedding_norm(inputs[0]))
        else:
            self.word_embeddings.register_forward_hook(lambda _module, _inputs, output: self.embedding_norm(output))


class Sinusoids(nn.Module):
    """Rows of sines and cosines for positions, of a ``kind`` of ``model.positions``: a table is a frozen parameter."""

    def __init__(self, rows: int, channels: int, kind: str, offset: int) -> None:
        """``offset``: rows before the first position."""
        super().__init__()
        self.offset, table = offset, sines(rows + offset, channels, kind)
        if kind == "sinusoidal_table":
            self.weight = nn.Parameter(table.to(torch.get_default_dtype()), requires_grad=False)
        else:
            self.register_buffer("weight", table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, position_ids: Tensor) -> Tensor:
        """``[..., channels]`` for positions ``[...]``."""
        return nn.functional.embedding(position_ids + self.offset, self.weight)


def sines(rows: int, channels: int, kind: str) -> Tensor:
    """``[rows, channels]``: sines, then cosines, of angles whose speeds fall from 1 to 1/10000 (arXiv:1706.03762, 3.5).

    The last speed is 1/10000 in tensor2tensor's table, and one step short of it in the paper's.
    """
    half = channels // 2
    steps = half - 1 if kind == "sinusoidal_t2t" else half
    speeds = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10000) / steps))
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * speeds
    return torch.cat([angles.sin(), angles.cos()], 1)
