"""Parts of config.json that say which layer is a delta net, Mamba, attention or a feed-forward part alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from meshwright.model.architectures import Flat, Part, refuse_unless
from meshwright.model.layers import LayerKind
from meshwright.model.pattern import read_pattern, write_pattern

__all__ = [
    "indexed_layers",
    "lightning_layers",
    "linear_attention",
    "mamba_layers",
    "nemotron_layers",
    "parallel_mixers",
]

_MIXERS = {"linear_attention": "delta_net", "full_attention": "attention"}


def linear_attention(every: int = 4, ffn: str | None = None) -> Part:
    """Delta nets in all layers but each ``every``-th, listed layer by layer; experts in most or all.

    ``ffn``: the feed-forward part of every layer, where no key says which have experts.
    """

    def write(flat: Flat) -> Flat:
        kinds = read_pattern(flat["pattern"])
        theirs = {ours: name for name, ours in _MIXERS.items()}
        mixers = {"layer_types": [theirs[kind.mixer] for kind in kinds]}
        if ffn is not None:
            return mixers
        dense = [layer for layer, kind in enumerate(kinds) if kind.ffn == "mlp"]
        return {**mixers, "mlp_only_layers": dense, "decoder_sparse_step": 1}

    def read(config: Flat) -> Flat:
        layers, n = config["num_hidden_layers"], config.get("full_attention_interval", every)
        regular = [("full" if (layer + 1) % n == 0 else "linear") + "_attention" for layer in range(layers)]
        mixers = [_MIXERS[name] for name in config.get("layer_types") or regular]
        step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
        routed = [ffn or ("experts" if i not in dense and (i + 1) % step == 0 else "mlp") for i in range(layers)]
        return {"pattern": write_pattern(LayerKind(*parts) for parts in zip(mixers, routed, strict=True))}

    keys = ("layer_types", "full_attention_interval")
    return Part(keys if ffn else (*keys, "mlp_only_layers", "decoder_sparse_step"), ("pattern",), write, read)


_LIGHTNING = {"linear_attention": "lightning", "full_attention": "attention"}


def lightning_layers() -> Part:
    """Lightning attention in every second layer, or as it is listed layer by layer; experts in each."""

    def write(flat: Flat) -> Flat:
        theirs = {ours: name for name, ours in _LIGHTNING.items()}
        kinds = read_pattern(flat["pattern"] or f"{flat['layers']}x*E")
        if {kind.ffn for kind in kinds} != {"experts"}:
            raise KeyError("layers without experts")
        return {"layer_types": [theirs[kind.mixer] for kind in kinds]}

    def read(config: Flat) -> Flat:
        regular = [("linear" if layer % 2 else "full") + "_attention" for layer in range(config["num_hidden_layers"])]
        mixers = [_LIGHTNING[name] for name in config.get("layer_types") or regular]
        plain = set(mixers) == {"attention"}
        return {"pattern": None if plain else write_pattern(LayerKind(mixer, "experts") for mixer in mixers)}

    return Part(("layer_types",), ("pattern",), write, read)


def mamba_layers() -> Part:
    """Bamba's: attention in the layers that are listed, Mamba in all others, an MLP in each; heads as wide as fits."""

    def write(flat: Flat) -> Flat:
        kinds = read_pattern(flat["pattern"])
        width = flat["mamba.heads"] * flat["mamba.head_dim"]
        return {
            "attn_layer_indices": [layer for layer, kind in enumerate(kinds) if kind.mixer == "attention"],
            "mamba_d_head": flat["mamba.head_dim"],
            "mamba_expand": width // flat["hidden"] if width % flat["hidden"] == 0 else width / flat["hidden"],
        }

    def read(config: Flat) -> Flat:
        attends, layers = config.get("attn_layer_indices") or (), range(config["num_hidden_layers"])
        kinds = [LayerKind("attention" if layer in attends else "mamba", "mlp") for layer in layers]
        width, stated = config.get("mamba_expand", 2) * config["hidden_size"], config.get("mamba_d_head", "auto")
        head_dim = width // config.get("mamba_n_heads", 128) if stated == "auto" else stated
        return {"pattern": write_pattern(kinds), "mamba.head_dim": head_dim}

    keys = ("attn_layer_indices", "layer_types", "layers_block_type", "mamba_d_head", "mamba_expand")
    return Part(keys, ("pattern", "mamba.head_dim"), write, read)


_FACTORS = {
    "attention_in": "attention_in_multiplier",
    "attention_out": "attention_out_multiplier",
    "mamba_in": "ssm_in_multiplier",
    "mamba_out": "ssm_out_multiplier",
}
_LISTS = {
    "ssm_multipliers": ("mamba_gate", "mamba_x", "mamba_write", "mamba_read", "mamba_step"),
    "mlp_multipliers": ("mlp_gate", "mlp_down"),
}


def parallel_mixers() -> Part:
    """Falcon-H1's: attention beside Mamba in every layer, Mamba's width and norm, and factors all over.

    A factor on the keys is one on the scores. Where there is a norm behind the scan, it has to follow the gate.
    """
    widths = ("mamba_d_ssm", "mamba_d_head", "mamba_expand", "mamba_rms_norm", "mamba_norm_before_gate")
    keys = (*widths, "time_step_limit", "key_multiplier", *_FACTORS.values(), *_LISTS)
    names = (*_FACTORS, *sum(_LISTS.values(), ()))
    paths = ("pattern", "mamba.norm", "mamba.head_dim", "attention_scale", *(f"multipliers.{name}" for name in names))
    return Part(keys, paths, _write_parallel, _read_parallel)


def _write_parallel(flat: Flat) -> Flat:
    width, scale = flat["mamba.heads"] * flat["mamba.head_dim"], flat["attention_scale"]
    factors = {name: flat.get(f"multipliers.{name}", 1.0) for name in (*_FACTORS, *sum(_LISTS.values(), ()))}
    return {
        **{"mamba_d_ssm": width, "mamba_d_head": flat["mamba.head_dim"], "mamba_rms_norm": flat["mamba.norm"]},
        **{"mamba_norm_before_gate": False, "key_multiplier": 1.0 if scale is None else scale * _root(flat)},
        **{theirs: factors[ours] for ours, theirs in _FACTORS.items()},
        **{key: [factors[name] for name in names] for key, names in _LISTS.items()},
    }


def _read_parallel(config: Flat) -> Flat:
    norm, before = config.get("mamba_rms_norm", False), config.get("mamba_norm_before_gate", True)
    refuse_unless(not (norm and before), "mamba_norm_before_gate", before)
    limits = tuple(config.get("time_step_limit") or (0.0, inf))
    refuse_unless(limits == (0.0, inf), "time_step_limit", limits)
    width = config.get("mamba_d_ssm", 1024) or config.get("mamba_expand", 2) * config["hidden_size"]
    stated, heads = config.get("mamba_d_head", "auto"), config.get("mamba_n_heads", 128)
    flat = {"pattern": f"{config['num_hidden_layers']}xP-", "mamba.norm": norm}
    flat["mamba.head_dim"] = width // heads if stated == "auto" else stated
    return {**flat, **_factors(config), "attention_scale": _scale_of_keys(config.get("key_multiplier", 1.0))}


def _root(flat: Flat) -> float:
    return float(flat["head_dim"] ** 0.5)


def _scale_of_keys(factor: float | None) -> Any:
    """Of the scores; None where it is the usual one."""
    return None if factor in (None, 1.0) else lambda flat: factor / _root(flat)


def _factors(config: Flat) -> Flat:
    """By our names; no factors at all where each is 1."""
    found = {ours: config.get(theirs) for ours, theirs in _FACTORS.items()}
    for key, names in _LISTS.items():
        found |= dict(zip(names, config.get(key) or [1.0] * len(names), strict=True))
    stated = {f"multipliers.{name}": 1.0 if value is None else value for name, value in found.items()}
    return stated if set(stated.values()) != {1.0} else {"multipliers": None}


def indexed_layers() -> Part:
    """Sparse attention in all layers, each with an indexer of its own."""

    def read(config: Flat) -> Flat:
        refuse_unless(set(config.get("layer_types") or ()) <= {"indexed_attention"}, "layer_types", "another attention")
        every, pattern = config.get("index_topk_freq", 1), config.get("index_topk_pattern") or ()
        shared = "shared" in (config.get("indexer_types") or ()) or not {"S", "shared"}.isdisjoint(pattern)
        refuse_unless(not shared and every in (None, 1), "indexer_types", "a choice of tokens that layers share")
        return {}

    keys = ("layer_types", "indexer_types", "index_topk_freq", "index_topk_pattern", "index_skip_topk_offset")
    return Part(keys, (), lambda _: {}, read)


_BLOCKS = {"linear_attention": "M", "moe": "E", "full_attention": "*", "mlp": "-"}
_FORMER = {"mamba": "linear_attention", "attention": "full_attention"}

_MAMBA = {"heads": "mamba_num_heads", "head_dim": "mamba_head_dim", "groups": "n_groups", "state": "ssm_state_size"}
_MAMBA |= {"kernel": "conv_kernel"}
_MAMBA_DEFAULTS = {"heads": 128, "head_dim": 64, "groups": 8, "state": 128, "kernel": 4}

_MOE = {"experts": "n_routed_experts", "topk": "num_experts_per_tok", "ffn": "moe_intermediate_size"}
_MOE |= {"shared_ffn": "moe_shared_expert_intermediate_size", "groups": "n_group", "group_topk": "topk_group"}
_MOE |= {"scaling": "routed_scaling_factor", "normalize_topk": "norm_topk_prob", "latent": "moe_latent_size"}
_MOE_DEFAULTS: Mapping[str, Any] = {"experts": 8, "topk": 2, "ffn": 7688, "shared_ffn": 7688, "groups": 1}
_MOE_DEFAULTS = {**_MOE_DEFAULTS, "group_topk": 1, "scaling": 1.0, "normalize_topk": True, "latent": None}
_ROUTER = {"moe.score": "sigmoid", "moe.router_bias": True}


def nemotron_layers() -> Part:
    """Layers of one part each, and the widths of Mamba and experts where there are such layers."""
    legacy = ("hybrid_override_pattern", "num_hidden_layers")
    keys = ("layers_block_type", *legacy, *_MAMBA.values(), *_MOE.values())
    paths = ("layers", "pattern", *(f"mamba.{name}" for name in _MAMBA), *(f"moe.{name}" for name in _MOE), *_ROUTER)
    return Part(keys, paths, _write_nemotron, _read_nemotron)


def _write_nemotron(flat: Flat) -> Flat:
    blocks = {symbol: name for name, symbol in _BLOCKS.items()}
    widths = [("mamba", _MAMBA), ("moe", _MOE)]
    return {
        "layers_block_type": [blocks[symbol] for symbol in flat["pattern"]],
        **{key: flat[f"{part}.{name}"] for part, names in widths if part not in flat for name, key in names.items()},
    }


def _read_nemotron(config: Flat) -> Flat:
    pattern = _pattern(config)
    flat: dict[str, Any] = {"layers": len(pattern), "pattern": pattern, "mamba": None, "moe": None}
    if "M" in pattern:
        del flat["mamba"]
        flat |= _widths(config, "mamba", _MAMBA, _MAMBA_DEFAULTS)
    if "E" in pattern:
        del flat["moe"]
        flat |= _widths(config, "moe", _MOE, _MOE_DEFAULTS) | _ROUTER
    return flat


def _pattern(config: Flat) -> str:
    written: Iterable[str] | None = config.get("layers_block_type")
    if written is None:
        return str(config.get("hybrid_override_pattern") or "ME*-")
    return "".join(_BLOCKS[_FORMER.get(name, name)] for name in written)


def _widths(config: Flat, part: str, names: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: config.get(key) for name, key in names.items()}
    return {f"{part}.{name}": defaults[name] if value is None else value for name, value in given.items()}
