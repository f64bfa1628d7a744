"""Which mixer stands in a layer: attention, or what ``--spec`` says of the layer of that number."""

from __future__ import annotations

from typing import Any

from megatron.core.transformer.spec_utils import ModuleSpec, build_module

from meshwright.model.megatron_parts import Parts
from meshwright.train.short_convolution import ShortConvolution

__all__ = ["with_mixers"]


class MixerOfLayer:
    """Builds what the symbol of the layer's number says (``model.layers``)."""

    def __new__(cls, submodules: Any, symbols: str, parts: Parts, attention: ModuleSpec, **arguments: Any) -> Any:
        """Take Megatron's arguments of an attention; ``attention`` is what it would build."""
        if symbols[arguments["layer_number"] - 1] == "C":
            kernel = int(float(parts["short_convolution"]))
            return ShortConvolution(submodules=submodules, kernel=kernel, **arguments)
        return build_module(attention, **arguments)


def with_mixers(layer: ModuleSpec, parts: Parts) -> None:
    """Have the specification of ``layer``, which may stand for many, build the mixer of each."""
    attention = layer.submodules.self_attention
    layer.submodules.self_attention = ModuleSpec(
        module=MixerOfLayer,
        params={"symbols": str(parts["mixers"]), "parts": parts, "attention": attention},
        submodules=attention.submodules,
    )
