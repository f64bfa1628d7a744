"""Rotary positions that Megatron-core lacks: two kinds in one model, and other ways to stretch them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.common.embeddings.yarn_rotary_pos_embedding import YarnRotaryEmbedding
from torch import Tensor

from meshwright.model.megatron_parts import Parts

__all__ = ["rotaries"]

PLAIN = ("kv_channels", "rotary_percent", "rotary_interleaved", "use_cpu_initialization", "cp_group")


def rotaries(parts: Parts) -> tuple[Any, Any]:
    """What stands in for Megatron's two classes of rotary positions, the plain and YaRN's."""
    stretch = str(parts.get("llama3_stretch", "")).split(":")
    rotary = _stretched(*map(float, stretch)) if "llama3_stretch" in parts else RotaryEmbedding
    if "local_base" not in parts:
        return rotary, YarnRotaryEmbedding
    return _two(rotary, float(parts["local_base"])), _two(YarnRotaryEmbedding, float(parts["local_base"]))


def _stretched(low: float, high: float, original: float) -> Any:
    """Llama 3.1's way with other factors (Llama 4 Scout: both 1, so that nothing lies between)."""

    class Stretched(RotaryEmbedding):  # type: ignore[misc]
        def _apply_scaling(self, freqs: Tensor, factor: float = 8, **_: Any) -> Tensor:
            turns = original * freqs / (2 * torch.pi)
            between = torch.clamp((turns - low) / max(high - low, 1e-12), 0, 1)
            return (1 - between) * freqs / factor + between * freqs

    return Stretched


def _two(whole: Any, local_base: float) -> Any:
    """Angles of layers that see everything, and of those with a window: ``[2, sequence, 1, 1, channels]`` (Gemma 3).

    Windowed layers are not stretched.
    """

    class Two(whole):  # type: ignore[misc]
        def __init__(self, **kwargs: Any) -> None:
            plain = {name: value for name, value in kwargs.items() if name in PLAIN}
            # YaRN's constructor asks for angles already
            object.__setattr__(self, "local", RotaryEmbedding(**plain, rotary_base=local_base))
            super().__init__(**kwargs)

        @lru_cache(maxsize=32)  # noqa: B019 - as Megatron's own, whose constructor empties it
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            angles, local = super().forward(*args, **kwargs), self.local(*args, **kwargs)
            if isinstance(angles, tuple):  # YaRN's, with its scale
                return torch.stack([angles[0], local]), angles[1]
            return torch.stack([angles, local])

    return Two
