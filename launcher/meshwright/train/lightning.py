"""Lightning attention for Megatron's layers, in PyTorch's matrix products: transformers' models/minimax.

It sees whole sequences: a rule refuses context parallelism with it.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from meshwright.model.layers.lightning import BLOCK
from meshwright.train.norms import FullNorm
from meshwright.train.projections import into, out_of

__all__ = ["LightningAttention", "attend", "rates"]

NORM_EPSILON = 1e-6
"""Of the norm behind it, whatever the model's other norms add (models/minimax: ``MiniMaxRMSNorm``'s default)."""


class LightningAttention(MegatronModule):  # type: ignore[misc]
    """Projections, attention, norm and gate on ``[sequence, batch, hidden]``; heads are cut over tensor parallelism."""

    def __init__(self, config: Any, submodules: Any, layer_number: int, pg_collection: Any = None, **_: Any) -> None:
        """Take what Megatron's self-attention takes; its linear layers are those of ``submodules``."""
        super().__init__(config=config)
        assert config.context_parallel_size == 1, "a rule of meshwright's refuses this"
        group, width = pg_collection.tp, config.num_attention_heads * config.kv_channels
        self.heads, self.channels = config.num_attention_heads // group.size(), config.kv_channels
        self.linear_qkv = into(config, submodules, group, 4 * width)
        self.norm = FullNorm(config.kv_channels, config, eps=NORM_EPSILON, heads="num_attention_heads")
        self.linear_proj = out_of(config, submodules, group, width)
        self.group, self.layer = group, layer_number - 1

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """The same shape, and no bias."""
        mixed, _bias = self.linear_qkv(hidden_states)
        mixed = mixed.unflatten(-1, (self.heads, 4 * self.channels))
        qkv, gate = mixed.split([3 * self.channels, self.channels], -1)
        query, key, value = (x.permute(1, 2, 0, 3) for x in nn.functional.silu(qkv).chunk(3, -1))
        found = attend(query, key, value, self._rates(query.device)).permute(2, 0, 1, 3)
        output, bias = self.linear_proj((self.norm(found) * gate.sigmoid()).flatten(2))
        return output, bias

    def _rates(self, device: torch.device) -> Tensor:
        """Of this rank's heads."""
        whole = rates(self.config.num_attention_heads, self.layer, self.config.num_layers)
        mine: Tensor = whole.chunk(self.group.size())[self.group.rank()].to(device)
        return mine


def rates(heads: int, layer: int, layers: int) -> Tensor:
    """``[heads]``: how fast the states of a layer fade, the slower the deeper it is; ``layer`` counts from 0."""
    slopes = 2.0 ** (-8 / heads * torch.arange(1, heads + 1, dtype=torch.float64))
    return (slopes * (1 - layer / (layers - 1 + 1e-5) + 1e-5)).float()


def attend(query: Tensor, key: Tensor, value: Tensor, rates: Tensor) -> Tensor:
    """``[batch, heads, tokens, channels]``: values, each weighted by query times key and by what has faded since.

    Tokens of a block by masked products, those before by the state, which is kept in 32 bits. ``rates``: ``[heads]``.
    """
    length, channels = query.shape[2:]
    rates = rates.view(-1, 1, 1)
    state, found = query.new_zeros(*query.shape[:2], channels, channels, dtype=torch.float32), []
    for start in range(0, length, BLOCK):
        q, k, v = (x[:, :, start : start + BLOCK] for x in (query, key, value))
        size = q.shape[2]
        place = torch.arange(size, device=q.device)
        between = place[:, None] - place[None, :]
        faded = torch.exp(-rates * between).masked_fill(between < 0, 0.0)
        within = ((q @ k.transpose(-1, -2)) * faded.to(q.dtype)) @ v
        reached = torch.exp(-rates * (place + 1).unsqueeze(-1))
        left = torch.exp(-rates * (size - 1 - place).unsqueeze(-1))
        found.append(within + ((q * reached) @ state).to(v.dtype))
        state = state * torch.exp(-rates * size) + (k * left).transpose(-1, -2) @ v.float()
    return torch.cat(found, 2)
