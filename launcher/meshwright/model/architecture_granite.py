"""Granite 4's part of config.json: Mamba-2 or attention layer by layer, experts or none, positions or none."""

from __future__ import annotations

from functools import partial
from typing import Any

from meshwright.model.architectures import Flat, Part, refuse_unless
from meshwright.model.layers import LayerKind
from meshwright.model.pattern import read_pattern, write_pattern

__all__ = ["granite_layers"]

_MIXERS = {"linear_attention": "mamba", "mamba": "mamba", "full_attention": "attention", "attention": "attention"}
_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}

_MAMBA = {"heads": "mamba_n_heads", "groups": "mamba_n_groups", "state": "mamba_d_state", "kernel": "mamba_d_conv"}
_MAMBA_DEFAULTS = {"heads": 128, "groups": 1, "state": 256, "kernel": 4}
_MOE = {"experts": "num_local_experts", "topk": "num_experts_per_tok", "ffn": "intermediate_size"}
_MOE |= {"shared_ffn": "shared_intermediate_size", "aux_loss": "router_aux_loss_coef"}
_MOE_DEFAULTS = {"experts": 8, "topk": 2, "ffn": 11008, "shared_ffn": 1024, "aux_loss": 0.001}


def granite_layers(rope: Part) -> Part:
    """Layers of Mamba or attention, each with experts beside a shared MLP, or with that MLP alone.

    ``rope``: the part that says rotary positions, where there are any.
    """
    keys = ("layer_types", "position_embedding_type", "mamba_d_head", "mamba_expand", "output_router_logits")
    widths = (*(f"mamba.{name}" for name in (*_MAMBA, "head_dim")), *(f"moe.{name}" for name in _MOE))
    paths = ("pattern", "positions", "ffn", *rope.paths, *widths)
    every = (*keys, *rope.keys, *_MAMBA.values(), *_MOE.values())
    return Part(every, paths, partial(_write, rope), partial(_read, rope))


def _write(rope: Part, flat: Flat) -> Flat:
    mixers = [_NAMES[mixer] for mixer in _mixers(flat)]
    turned = flat["positions"] == "rope"
    return {
        "layer_types": mixers,
        "position_embedding_type": "rope" if turned else None,
        **(rope.write(flat) if turned else {}),
        **_write_feed_forward(flat),
        **(_write_mamba(flat) if "linear_attention" in mixers else {}),
    }


def _read(rope: Part, config: Flat) -> Flat:
    count, turned = config["num_hidden_layers"], config.get("position_embedding_type") == "rope"
    mixers = [_MIXERS[name] for name in config.get("layer_types") or ["mamba"] * count]
    refuse_unless(len(mixers) == count, "layer_types", f"{len(mixers)} of {count} layers")
    feeding = _read_feed_forward(config)
    ffn = "mlp" if feeding.get("moe", ...) is None else "experts"
    pattern = write_pattern(LayerKind(mixer, ffn) for mixer in mixers) if "mamba" in mixers else None
    return {
        "pattern": pattern,
        "positions": "rope" if turned else "none",
        **(rope.read(config) if turned else {}),
        **feeding,
        **(_read_mamba(config) if "mamba" in mixers else {"mamba": None}),
    }


def _mixers(flat: Flat) -> list[str]:
    if flat["pattern"] is None:
        return ["attention"] * flat["layers"]
    kinds = read_pattern(flat["pattern"])
    if len({kind.ffn for kind in kinds}) > 1:
        raise KeyError("experts in some layers")
    return [kind.mixer for kind in kinds]


def _write_feed_forward(flat: Flat) -> dict[str, Any]:
    if "moe.experts" not in flat:
        return {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": flat["ffn"]}
    used = flat["moe.balancing"] != "none" and flat["moe.aux_loss"] > 0
    return {**{key: flat[f"moe.{name}"] for name, key in _MOE.items()}, "output_router_logits": used}


def _read_feed_forward(config: Flat) -> dict[str, Any]:
    found = {name: _stated(config, key, _MOE_DEFAULTS[name]) for name, key in _MOE.items()}
    if not found["experts"]:
        return {"moe": None, "ffn": found["shared_ffn"]}
    return {**{f"moe.{name}": value for name, value in found.items()}, "ffn": found["ffn"]}


def _write_mamba(flat: Flat) -> dict[str, Any]:
    width = flat["mamba.heads"] * flat["mamba.head_dim"]
    sizes = {"mamba_d_head": flat["mamba.head_dim"], "mamba_expand": width // flat["hidden"]}
    return {**{key: flat[f"mamba.{name}"] for name, key in _MAMBA.items()}, **sizes}


def _read_mamba(config: Flat) -> dict[str, Any]:
    found = {name: _stated(config, key, _MAMBA_DEFAULTS[name]) for name, key in _MAMBA.items()}
    width, stated = config.get("mamba_expand", 2) * config["hidden_size"], config.get("mamba_d_head", "auto")
    head_dim = width // found["heads"] if stated == "auto" else stated
    return {f"mamba.{name}": value for name, value in {**found, "head_dim": head_dim}.items()}


def _stated(config: Flat, key: str, usual: Any) -> Any:
    return usual if config.get(key) is None else config[key]
