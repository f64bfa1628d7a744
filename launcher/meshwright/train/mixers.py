"""Which mixer stands in a layer: attention, or what ``--spec`` says of the layer of that number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from megatron.core.transformer.spec_utils import ModuleSpec, build_module

from meshwright.model.megatron_parts import Parts
from meshwright.train.lightning import LightningAttention
from meshwright.train.norms import as_the_others
from meshwright.train.parallel_mixer import ParallelMixer
from meshwright.train.short_convolution import ShortConvolution

__all__ = ["symbols", "with_mixers"]


class MixerOfLayer:
    """Builds what the symbol of the layer's number says (``model.layers``)."""

    def __new__(cls, submodules: Any, symbols: str, parts: Parts, attention: ModuleSpec, **arguments: Any) -> Any:
        """Take Megatron's arguments of an attention; ``attention`` is what it would build."""
        symbol = symbols[arguments["layer_number"] - 1]
        if symbol == "P":
            return ParallelMixer(submodules=submodules, parts=parts, attention=attention, **arguments)
        if symbol == "L":
            return LightningAttention(submodules=submodules, **arguments)
        if symbol == "C":
            kernel = int(float(parts["short_convolution"]))
            return ShortConvolution(submodules=submodules, kernel=kernel, **arguments)
        return build_module(attention, **arguments)


def symbols(parts: Parts) -> str:
    """That of each layer's mixer, of all stages; empty where every one is Megatron's attention."""
    return str(parts.get("mixers", parts.get("lightning", "")))


def with_mixers(layer: ModuleSpec, parts: Parts, norm: Any, unfuse: Callable[[Any, str], None]) -> None:
    """Have the specification of ``layer``, which may stand for many, build the mixer of each.

    Attention and Mamba side by side read one ``norm``, which ``unfuse`` therefore takes out of the linear layer.
    """
    attention, each = layer.submodules.self_attention, symbols(parts)
    if "P" in each:
        unfuse(attention.submodules, "linear_qkv")
        layer.submodules.input_layernorm = norm or as_the_others
        keys = layer.submodules.sharded_state_dict_keys_map
        own = {ours: theirs for ours, theirs in keys.items() if not ours.startswith("input_layernorm")}
        layer.submodules.sharded_state_dict_keys_map = own
    layer.submodules.self_attention = ModuleSpec(
        module=MixerOfLayer,
        params={"symbols": each, "parts": parts, "attention": attention},
        submodules=attention.submodules,
    )
