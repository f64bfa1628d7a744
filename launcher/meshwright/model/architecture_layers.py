"""Parts of config.json that say it layer by layer: windows, positions, experts."""

from __future__ import annotations

from functools import partial
from typing import Any

from meshwright.model.architectures import Flat, Part, refuse_unless
from meshwright.model.layers import LayerKind
from meshwright.model.pattern import read_pattern, write_pattern

__all__ = [
    "chunked_layers",
    "dense_layers",
    "expert_layers",
    "layer_kinds",
    "leading_dense",
    "listed_experts",
    "local_attention",
    "without_rope",
]

_KINDS = {True: "full_attention", False: "sliding_attention"}


def layer_kinds(every: int, without: bool = False, first: bool = False) -> Part:
    """Sliding windows in all layers but each ``every``-th, which transformers lists layer by layer.

    ``without``: a model without windows says so by a null; others still want a length. ``first``: each ``every``-th
    layer from the first one on, where nothing is listed.
    """

    def write(flat: Flat) -> Flat:
        window, n = flat["sliding_window"], flat["full_attention_every"]
        kinds = [window is None or (n > 0 and (layer + 1) % n == 0) for layer in range(flat["layers"])]
        if flat["pattern"] is not None:
            kinds = [kind.mixer == "attention" for kind in read_pattern(flat["pattern"])]
        return {
            "sliding_window": window or (None if without else flat["max_positions"]),
            "layer_types": ["full_attention" if full else "sliding_attention" for full in kinds],
        }

    def read(config: Flat) -> Flat:
        layers, n = config["num_hidden_layers"], config.get("sliding_window_pattern", every)
        window, twice = config.get("sliding_window", 4096), config.get("sliding_window_size")
        refuse_unless(twice in (None, window), "sliding_window_size", twice)
        kinds = config.get("layer_types") or [_KINDS[(i + (not first)) % n == 0] for i in range(layers)]
        return _windows(kinds, window, layers)

    keys = ("sliding_window", "sliding_window_size", "layer_types", "sliding_window_pattern", "_sliding_window_pattern")
    return Part(keys, ("sliding_window", "full_attention_every", "pattern"), write, read)


def _written(windows: tuple[str, ...], flat: Flat) -> str:
    """The pattern of layers with such windows; which of them have experts stands in ``flat``."""
    routed, first, every = "moe.experts" in flat, flat.get("moe.first_dense", 0), flat.get("moe.every", 1)
    experts = [routed and i >= first and (i - first + 1) % every == 0 for i in range(len(windows))]
    mixers = {"full_attention": "attention", "sliding_attention": "windowed_attention"}
    rows = zip(windows, experts, strict=True)
    return write_pattern(LayerKind(mixers[window], "experts" if routed else "mlp") for window, routed in rows)


def without_rope() -> Part:
    """SmolLM 3 leaves every n-th layer without positions."""

    def write(flat: Flat) -> Flat:
        n = flat["rope.skip_every"]
        kinds = [int(n == 0 or (layer + 1) % n != 0) for layer in range(flat["layers"])]
        return {"no_rope_layer_interval": n, "no_rope_layers": kinds}

    def read(config: Flat) -> Flat:
        n = config.get("no_rope_layer_interval", 4)
        regular = [int(n == 0 or (layer + 1) % n != 0) for layer in range(config["num_hidden_layers"])]
        refuse_unless((config.get("no_rope_layers") or regular) == regular, "no_rope_layers", "an irregular pattern")
        return {"rope.skip_every": n}

    return Part(("no_rope_layer_interval", "no_rope_layers"), ("rope.skip_every",), write, read)


def leading_dense(dense: int = 1) -> Part:
    """The kinds of feed-forward parts layer by layer: some dense ones (``dense`` by default), then experts."""
    usual = dense

    def write(flat: Flat) -> Flat:
        dense = flat["moe.first_dense"]
        return {"mlp_layer_types": ["dense"] * dense + ["sparse"] * (flat["layers"] - dense)}

    def read(config: Flat) -> Flat:
        layers = config["num_hidden_layers"]
        leading = config.get("first_k_dense_replace", usual)
        kinds = config.get("mlp_layer_types") or ["dense"] * leading + ["sparse"] * (layers - leading)
        dense = kinds.count("dense")
        regular = kinds == ["dense"] * dense + ["sparse"] * (layers - dense)
        refuse_unless(regular, "mlp_layer_types", "an irregular pattern")
        return {"moe.first_dense": dense}

    return Part(("mlp_layer_types",), ("moe.first_dense",), write, read)


def expert_layers(start: int = 1) -> Part:
    """ERNIE 4.5's: experts from a layer on, to the last one."""
    keys = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")

    def write(flat: Flat) -> Flat:
        return dict(zip(keys, (flat["moe.first_dense"], flat["layers"] - 1, 1), strict=True))

    def read(config: Flat) -> Flat:
        last, end = config["num_hidden_layers"] - 1, config.get("moe_layer_end_index", -1)
        refuse_unless(end in (-1, last), "moe_layer_end_index", end)
        every = config.get("moe_layer_interval", 1)
        refuse_unless(every == 1, "moe_layer_interval", every)
        return {"moe.first_dense": config.get("moe_layer_start_index", start)}

    return Part(keys, ("moe.first_dense",), write, read)


def dense_layers() -> Part:
    """The first layers without experts, by their numbers."""

    def write(flat: Flat) -> Flat:
        if flat["pattern"] is None:
            return {"mlp_only_layers": list(range(flat["moe.first_dense"]))}
        return {"mlp_only_layers": [i for i, kind in enumerate(read_pattern(flat["pattern"])) if kind.ffn == "mlp"]}

    def read(config: Flat) -> Flat:
        dense = config.get("mlp_only_layers") or []
        refuse_unless(dense == list(range(len(dense))), "mlp_only_layers", "an irregular pattern")
        return {"moe.first_dense": len(dense)}

    return Part(("mlp_only_layers",), ("moe.first_dense",), write, read)


def local_attention() -> Part:
    """GPT-Neo's: kinds and how often they follow each other; every second layer has a window."""

    def write(flat: Flat) -> Flat:
        kinds = ["global"] if flat["sliding_window"] is None else ["global", "local"]
        window = flat["sliding_window"] or flat["max_positions"]
        return {"attention_types": [[kinds, flat["layers"] // len(kinds)]], "window_size": window}

    def read(config: Flat) -> Flat:
        stated = config.get("attention_types") or [[["global", "local"], config["num_layers"] // 2]]
        kinds = [kind for group, times in stated for kind in group * times]
        if set(kinds) == {"global"}:
            return {"sliding_window": None, "pattern": None}
        regular = ["global", "local"] * (len(kinds) // 2)
        refuse_unless(kinds == regular, "attention_types", "an irregular pattern")
        return {"sliding_window": config.get("window_size", 256), "pattern": f"{len(kinds) // 2}x(*- W-)"}

    keys = ("attention_types", "attention_layers", "window_size")
    return Part(keys, ("sliding_window", "pattern"), write, read)


def _windows(kinds: list[str], window: Any, layers: int) -> Flat:
    """The layers with windows of a list: every n-th without, else as a pattern."""
    if "sliding_attention" not in kinds:
        return {"sliding_window": None, "full_attention_every": 0}
    n = kinds.index("full_attention") + 1 if "full_attention" in kinds else 0
    if kinds == [_KINDS[n > 0 and (i + 1) % n == 0] for i in range(layers)]:
        return {"sliding_window": window, "full_attention_every": n}
    return {"sliding_window": window, "full_attention_every": 0, "pattern": partial(_written, tuple(kinds))}


def chunked_layers() -> Part:
    """Llama 4's: chunks in layers with positions, queries that grow in those without, experts in every n-th."""
    kinds = ("no_rope_layer_interval", "no_rope_layers", "layer_types", "moe_layers", "interleave_moe_layer_step")
    numbers = ("attention_chunk_size", "attn_temperature_tuning", "attn_scale", "floor_scale")
    return Part(
        kinds + numbers,
        ("rope.skip_every", "attention_chunk", "moe.every", "query_growth", "query_growth_from"),
        _write_chunked,
        _read_chunked,
    )


def _write_chunked(flat: Flat) -> Flat:
    layers, skips, every = range(flat["layers"]), flat["rope.skip_every"], flat["moe.every"]
    turned = [int(not skips or (layer + 1) % skips != 0) for layer in layers]
    grows = flat["query_growth"] is not None
    return {
        "no_rope_layer_interval": skips,
        "no_rope_layers": turned,
        "layer_types": ["chunked_attention" if one else "full_attention" for one in turned],
        "attention_chunk_size": flat["attention_chunk"] or flat["max_positions"],
        "interleave_moe_layer_step": every,
        "moe_layers": [layer for layer in layers if (layer + 1) % every == 0],
        "attn_temperature_tuning": grows,
        **({"attn_scale": flat["query_growth"], "floor_scale": flat["query_growth_from"] + 1} if grows else {}),
    }


def _read_chunked(config: Flat) -> Flat:
    layers, every = config["num_hidden_layers"], config.get("interleave_moe_layer_step", 1)
    skips = config.get("no_rope_layer_interval", 4)
    turned = [int((layer + 1) % skips != 0) for layer in range(layers)]
    refuse_unless((config.get("no_rope_layers") or turned) == turned, "no_rope_layers", "an irregular pattern")
    experts = [layer for layer in range(layers) if (layer + 1) % every == 0]
    refuse_unless((config.get("moe_layers") or experts) == experts, "moe_layers", "an irregular pattern")
    grows = bool(config.get("attn_temperature_tuning", True))
    return {
        "rope.skip_every": skips,
        "attention_chunk": config.get("attention_chunk_size", 8192),
        "moe.every": every,
        "query_growth": config.get("attn_scale", 0.1) if grows else None,
        "query_growth_from": config.get("floor_scale", 8192) - 1 if grows else None,
    }


def listed_experts() -> Part:
    """Hunyuan's files list the experts of each layer; transformers builds all of one size, and one of them shared."""

    def read(config: Flat) -> Flat:
        size = config["intermediate_size"]
        refuse_unless(_alike(config, "num_shared_expert", 1) == 1, "num_shared_expert", config.get("num_shared_expert"))
        width = _alike(config, "moe_intermediate_size", size)
        refuse_unless(width == size, "moe_intermediate_size", f"{width} beside an intermediate_size of {size}")
        return {"moe.topk": _alike(config, "moe_topk", 1)}

    keys = ("moe_topk", "num_shared_expert", "moe_intermediate_size")
    return Part(keys, ("moe.topk",), lambda flat: {"moe_topk": flat["moe.topk"]}, read)


def _alike(config: Flat, name: str, usual: int) -> int:
    """A key that says one number, or a list of equal ones, one a layer."""
    given = config.get(name)
    each = given if isinstance(given, list) else [usual if given is None else given]
    refuse_unless(len(set(each)) == 1, name, f"layers with {', '.join(map(str, sorted(set(each))))}")
    return int(each[0])
