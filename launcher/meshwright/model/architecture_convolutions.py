"""Parts of config.json of LFM2: which layers are short convolutions, and how wide its MLP is."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.model.architectures import Flat, Part
from meshwright.model.layers import LayerKind
from meshwright.model.pattern import read_pattern, write_pattern

__all__ = ["adjusted_width", "convolution_layers"]

_MIXERS = {"conv": "short_convolution", "full_attention": "attention"}


def convolution_layers(experts: bool = False) -> Part:
    """Short convolutions and attention, listed layer by layer; without a list, attention where its numbers say so.

    ``experts``: behind the first ``num_dense_layers`` layers, and the list has to be there.
    """

    def write(flat: Flat) -> Flat:
        if flat["pattern"] is None:
            return {"layer_types": ["full_attention"] * flat["layers"]}
        return _write_types(flat, experts)

    def read(config: Flat) -> Flat:
        layers = config["num_hidden_layers"]
        types = config.get("layer_types") or (... if experts else _numbered(config, layers))
        if types is ...:
            return {"pattern": ...}
        dense = config.get("num_dense_layers", 2) if experts else layers
        kinds = [LayerKind(_MIXERS[name], "mlp" if i < dense else "experts") for i, name in enumerate(types)]
        if "conv" in types:
            return {"pattern": write_pattern(kinds), "short_convolution.kernel": config.get("conv_L_cache", 3)}
        return {"pattern": write_pattern(kinds) if experts else None, "short_convolution": None}

    keys = ("layer_types", "full_attn_idxs", "conv_L_cache", *(("num_dense_layers",) if experts else ()))
    return Part(keys, ("pattern", "short_convolution.kernel"), write, read)


def _write_types(flat: Flat, experts: bool) -> Flat:
    shown, kinds = {mixer: name for name, mixer in _MIXERS.items()}, read_pattern(flat["pattern"])
    types = {"layer_types": [shown[kind.mixer] for kind in kinds]}
    kernel = {"conv_L_cache": flat["short_convolution.kernel"]} if "short_convolution.kernel" in flat else {}
    dense = {"num_dense_layers": sum(kind.ffn == "mlp" for kind in kinds)} if experts else {}
    return {**types, **kernel, **dense}


def _numbered(config: Flat, layers: int) -> Iterable[str]:
    attends = config.get("full_attn_idxs")
    return ["full_attention" if attends is None or i in attends else "conv" for i in range(layers)]


def adjusted_width() -> Part:
    """The MLP's width: as it stands, or two thirds of it, times a factor, rounded up to a multiple (Lfm2MLP)."""

    def read(config: Flat) -> Flat:
        ffn = config.get("block_ff_dim", config.get("intermediate_size", 12288))
        if config.get("block_auto_adjust_ff_dim", True):
            ffn, factor = int(2 * ffn / 3), config.get("block_ffn_dim_multiplier", 1.0)
            multiple = config.get("block_multiple_of", 256)
            if factor is not None:
                ffn = -(-int(factor * ffn) // multiple) * multiple
        return {"ffn": ffn}

    def write(flat: Flat) -> Flat:
        return {"intermediate_size": flat["ffn"], "block_auto_adjust_ff_dim": False}

    adjusting = ("block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of")
    return Part(("intermediate_size", "block_ff_dim", *adjusting), ("ffn",), write, read)
