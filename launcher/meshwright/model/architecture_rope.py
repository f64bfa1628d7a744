"""Rotary positions in config.json: one base, a base for each kind of layer, and how they are stretched."""

from __future__ import annotations

from typing import Any

from meshwright.model.architectures import Flat, Part, refuse_unless

__all__ = ["layered_rope", "rope"]

_SCALING = {
    "linear": ("factor",),
    "llama3": ("factor", "original_positions", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_positions", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
}
_THEIRS = {"original_positions": "original_max_position_embeddings"}
_YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0, "truncate": True}


def rope(
    base: float = 10000.0,
    fraction: float | None = None,
    growth: bool = False,
    alike: str | None = None,
    stretched: bool = False,
) -> Part:
    """``rope_parameters``, or ``rope_theta`` and ``rope_scaling`` of earlier versions. ``fraction``: the default.

    ``growth``: queries grow with their place. ``alike``: a key that lists the base of each layer. ``stretched``: a
    fixed ``alpha`` may stretch the base.
    """
    paths = ("rope.base", "rope.scaling", *(() if fraction is None else ("rope.fraction",)))
    if growth:
        paths += ("query_growth", "query_growth_from")
    legacy = ("rope_theta", "rotary_emb_base", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rotary_dim")

    def write(flat: Flat) -> Flat:
        partial = {} if fraction is None else {"partial_rotary_factor": flat["rope.fraction"]}
        grown = {"llama_4_scaling_beta": flat["query_growth"]} if growth else {}
        each = {alike: [flat["rope.base"]] * flat["layers"]} if alike else {}
        return {"rope_parameters": {**_write_rope(flat, flat["rope.base"]), **partial, **grown}, **each}

    def read(config: Flat) -> Flat:
        given = _given(config, base)
        given = _unstretched(given, config, base) if stretched else given
        flat = {"rope.base": float(given.get("rope_theta", base)), **_read_scaling(given, config)}
        if growth:
            flat |= {"query_growth": given.get("llama_4_scaling_beta")}
            flat |= {"query_growth_from": flat.get("rope.scaling.original_positions")}
        bases = set(config.get(alike) or ()) if alike else set()
        refuse_unless(bases <= {flat["rope.base"]}, str(alike), f"layers with {bases}")
        return {**flat, **_read_fraction({**_turned(config), **given}, fraction)}

    return Part(("rope_parameters", *legacy, *((alike,) if alike else ())), paths, write, read)


def _given(config: Flat, base: float) -> Flat:
    """``rope_parameters``, or what earlier versions say in its place."""
    stated = {"rope_theta": config.get("rope_theta", config.get("rotary_emb_base", base))}
    return config.get("rope_parameters") or {**stated, **(config.get("rope_scaling") or {})}


def _turned(config: Flat) -> Flat:
    """Which part of a head's channels is turned, as earlier versions say it."""
    stated = config.get("partial_rotary_factor", config.get("rotary_pct"))
    if config.get("rotary_dim") and stated is None:
        stated = config["rotary_dim"] / config["head_dim"]
    return {"partial_rotary_factor": stated}


def _read_fraction(given: Flat, usual: float | None) -> Flat:
    """``usual``: where nothing is said; None: all channels are turned, and nothing else can be said."""
    part = given["partial_rotary_factor"]
    if usual is None:
        refuse_unless(part in (None, 1.0), "partial_rotary_factor", part)
        return {}
    return {"rope.fraction": usual if part is None else part}


def layered_rope(base: float = 1e6, local_base: float | None = None, positions: int | None = None) -> Part:
    """Rotary positions by kind of layer: windowed layers have a base of their own, and only the others are stretched.

    The bases and the number of ``positions`` are the defaults; without ``local_base`` both kinds have the same.
    """
    usual = {} if positions is None else {"max_position_embeddings": positions}

    def write(flat: Flat) -> Flat:
        local = flat["rope.base"] if flat["rope.local_base"] is None else flat["rope.local_base"]
        parameters = {
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
            "full_attention": _write_rope(flat, flat["rope.base"]),
        }
        return {"rope_parameters": parameters}

    def read(config: Flat) -> Flat:
        given = config.get("rope_parameters") or {}
        whole = given.get("full_attention", {"rope_theta": config.get("rope_theta", base), **_scaled(config)})
        turned = float(whole.get("rope_theta", base))
        stated = config.get("rope_local_base_freq", turned if local_base is None else local_base)
        local = float(given.get("sliding_attention", {}).get("rope_theta", stated))
        scaling = _read_scaling(whole, {**usual, **config})
        alike = local == turned and "rope.scaling" in scaling  # windowed layers are never stretched
        return {"rope.base": turned, "rope.local_base": None if alike else local, **scaling}

    keys = ("rope_parameters", "rope_theta", "rope_local_base_freq", "rope_scaling")
    return Part(keys, ("rope.base", "rope.local_base", "rope.scaling"), write, read)


def _write_rope(flat: Flat, base: float) -> dict[str, Any]:
    if "rope.scaling.kind" not in flat:
        return {"rope_type": "default", "rope_theta": base}
    kind = flat["rope.scaling.kind"]
    values = {_THEIRS.get(name, name): flat[f"rope.scaling.{name}"] for name in _SCALING[kind]}
    return {"rope_type": kind, "rope_theta": base, **values}


def _unstretched(given: Flat, config: Flat, base: float) -> Flat:
    """With the base that ``alpha`` makes of it (models/hunyuan_v1_dense: compute_ntk_alpha_rope_parameters)."""
    if given.get("rope_type", given.get("type")) != "dynamic" or not given.get("alpha"):
        return given
    channels = config.get("head_dim") or config["attention_head_dim"]
    turned = given.get("rope_theta", base) * given["alpha"] ** (channels / (channels - 2))
    return {"rope_type": "default", "rope_theta": turned}


def _read_scaling(given: Flat, config: Flat) -> dict[str, Any]:
    kind = given.get("rope_type", given.get("type", "default"))
    if kind in (None, "default"):
        return {"rope.scaling": None}
    refuse_unless(kind in _SCALING, "rope_type", kind)
    stated = {ours: given.get(_THEIRS.get(ours, ours), _YARN.get(ours)) for ours in _SCALING[kind]}
    stated["original_positions"] = stated.get("original_positions") or config["max_position_embeddings"]
    return {"rope.scaling.kind": kind, **{f"rope.scaling.{name}": value for name, value in stated.items()}}


def _scaled(config: Flat) -> Flat:
    scaling: Flat = config.get("rope_scaling") or {}
    return scaling
