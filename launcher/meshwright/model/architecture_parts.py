"""Parts of config.json that take more than one key, or compute: rotary positions, sliding windows, experts.

``PARTS`` are their names in data/architectures/*.yaml, ``VALUES`` those of the ways in which transformers calls values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from meshwright.model.architectures import Flat, NoCounterpartError, Part

__all__ = ["PARTS", "VALUES"]

_GATED = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh"}
_PLAIN = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "squared_relu": "relu2"}
# the same functions
_ALIASES = {"swish": "silu", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu_new": "gelu_pytorch_tanh"}


def _activations(table: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    ours = {theirs: our for our, theirs in table.items()}
    return table, ours | {a: ours[theirs] for a, theirs in _ALIASES.items() if a not in ours and theirs in ours}


def _whole(number: float) -> float:
    """``1/scale²`` was an integer before the root was taken."""
    return round(number) if abs(number - round(number)) < 1e-6 * number else number


VALUES: Mapping[str, tuple[Any, Any]] = {
    "gated": _activations(_GATED),
    "plain": _activations(_PLAIN),
    "plain tanh": _activations(_PLAIN | {"gelu_tanh": "gelu_pytorch_tanh"}),
    "inverse square": (lambda scale: _whole(scale**-2), lambda scalar: scalar**-0.5),
}
"""How a field's values are called in config.json, and back: mappings or functions."""

_SCALING = {
    "linear": ("factor",),
    "llama3": ("factor", "original_positions", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_positions", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
}
_THEIRS = {"original_positions": "original_max_position_embeddings"}
_YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0}


def rope(base: float = 10000.0, fraction: float | None = None) -> Part:
    """``rope_parameters``, or ``rope_theta`` and ``rope_scaling`` of earlier versions. ``fraction``: the default."""
    paths = ("rope.base", "rope.scaling", *(() if fraction is None else ("rope.fraction",)))
    legacy = ("rope_theta", "rotary_emb_base", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rotary_dim")

    def write(flat: Flat) -> Flat:
        partial = {} if fraction is None else {"partial_rotary_factor": flat["rope.fraction"]}
        return {"rope_parameters": {**_write_rope(flat, flat["rope.base"]), **partial}}

    def read(config: Flat) -> Flat:
        given = config.get("rope_parameters") or {
            "rope_theta": config.get("rope_theta", config.get("rotary_emb_base", base)),
            **(config.get("rope_scaling") or {}),
        }
        stated = config.get("partial_rotary_factor", config.get("rotary_pct"))
        if config.get("rotary_dim") and stated is None:
            stated = config["rotary_dim"] / config["head_dim"]
        given = {"partial_rotary_factor": stated, **given}
        flat = {"rope.base": float(given.get("rope_theta", base)), **_read_scaling(given, config)}
        part = given["partial_rotary_factor"]
        if fraction is None:
            _refuse_unless(part in (None, 1.0), "partial_rotary_factor", part)
            return flat
        return {**flat, "rope.fraction": fraction if part is None else part}

    return Part(("rope_parameters", *legacy), paths, write, read)


def layered_rope(base: float = 1e6, local_base: float | None = None) -> Part:
    """Rotary positions by kind of layer: windowed layers have a base of their own, and only the others are stretched.

    The bases are the defaults; without ``local_base`` both kinds have the same.
    """

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
        bases = {"rope.base": turned, "rope.local_base": None if local == turned else local}
        return bases | _read_scaling(whole, config)

    keys = ("rope_parameters", "rope_theta", "rope_local_base_freq", "rope_scaling")
    return Part(keys, ("rope.base", "rope.local_base", "rope.scaling"), write, read)


def layer_kinds(every: int, without: bool = False) -> Part:
    """Sliding windows in all layers but each ``every``-th, which transformers lists layer by layer.

    ``without``: a model without windows says so by a null; others still want a length.
    """

    def write(flat: Flat) -> Flat:
        window, n = flat["sliding_window"], flat["full_attention_every"]
        kinds = [window is None or (n > 0 and (layer + 1) % n == 0) for layer in range(flat["layers"])]
        return {
            "sliding_window": window or (None if without else flat["max_positions"]),
            "layer_types": ["full_attention" if full else "sliding_attention" for full in kinds],
        }

    def read(config: Flat) -> Flat:
        layers, n = config["num_hidden_layers"], config.get("sliding_window_pattern", every)
        window, twice = config.get("sliding_window", 4096), config.get("sliding_window_size")
        _refuse_unless(twice in (None, window), "sliding_window_size", twice)
        kinds = config.get("layer_types") or [_KINDS[(i + 1) % n == 0] for i in range(layers)]
        if "sliding_attention" not in kinds:
            return {"sliding_window": None, "full_attention_every": 0}
        n = kinds.index("full_attention") + 1 if "full_attention" in kinds else 0
        regular = [_KINDS[n > 0 and (i + 1) % n == 0] for i in range(layers)]
        _refuse_unless(kinds == regular, "layer_types", "an irregular pattern")
        return {"sliding_window": window, "full_attention_every": n}

    keys = ("sliding_window", "sliding_window_size", "layer_types", "sliding_window_pattern", "_sliding_window_pattern")
    return Part(keys, ("sliding_window", "full_attention_every"), write, read)


def without_rope() -> Part:
    """SmolLM 3 leaves every n-th layer without positions."""

    def write(flat: Flat) -> Flat:
        n = flat["rope.skip_every"]
        kinds = [int(n == 0 or (layer + 1) % n != 0) for layer in range(flat["layers"])]
        return {"no_rope_layer_interval": n, "no_rope_layers": kinds}

    def read(config: Flat) -> Flat:
        n = config.get("no_rope_layer_interval", 4)
        regular = [int(n == 0 or (layer + 1) % n != 0) for layer in range(config["num_hidden_layers"])]
        _refuse_unless((config.get("no_rope_layers") or regular) == regular, "no_rope_layers", "an irregular pattern")
        return {"rope.skip_every": n}

    return Part(("no_rope_layer_interval", "no_rope_layers"), ("rope.skip_every",), write, read)


def router_loss(aux: float = 0.001) -> Part:
    """Transformers adds the auxiliary loss only where it returns the router's logits."""

    def write(flat: Flat) -> Flat:
        used = flat["moe.balancing"] != "none" and flat["moe.aux_loss"] > 0
        return {"router_aux_loss_coef": flat["moe.aux_loss"], "output_router_logits": used}

    def read(config: Flat) -> Flat:
        return {"moe.aux_loss": config.get("router_aux_loss_coef", aux)}

    return Part(("router_aux_loss_coef", "output_router_logits"), ("moe.aux_loss",), write, read)


def shared_experts() -> Part:
    """DeepSeek counts its shared experts in sizes of one routed expert."""
    return Part(
        ("n_shared_experts",),
        ("moe.shared_ffn",),
        lambda flat: {"n_shared_experts": flat["moe.shared_ffn"] // flat["moe.ffn"]},
        lambda config: {"moe.shared_ffn": (config.get("n_shared_experts") or 0) * config["moe_intermediate_size"]},
    )


def leading_dense() -> Part:
    """The kinds of feed-forward parts layer by layer: some dense ones, then experts."""

    def write(flat: Flat) -> Flat:
        dense = flat["moe.first_dense"]
        return {"mlp_layer_types": ["dense"] * dense + ["sparse"] * (flat["layers"] - dense)}

    def read(config: Flat) -> Flat:
        layers = config["num_hidden_layers"]
        kinds = config.get("mlp_layer_types") or ["dense"] + ["sparse"] * (layers - 1)
        dense = kinds.count("dense")
        regular = kinds == ["dense"] * dense + ["sparse"] * (layers - dense)
        _refuse_unless(regular, "mlp_layer_types", "an irregular pattern")
        return {"moe.first_dense": dense}

    return Part(("mlp_layer_types",), ("moe.first_dense",), write, read)


def multi_query() -> Part:
    """GPTBigCode has one key/value head or as many as queries."""
    return Part(
        ("multi_query", "num_key_value_heads"),
        ("kv_heads",),
        lambda flat: {"multi_query": flat["kv_heads"] == 1},
        lambda config: {"kv_heads": 1 if config.get("multi_query", True) else config["n_head"]},
    )


def falcon_decoder() -> Part:
    """Falcon's two forms: the new one says its key/value heads and norms, the first one has switches (modeling_falcon).

    Read: without ``new_decoder_architecture``, ``multi_query`` means one key/value head, and a parallel block one norm.
    """

    def write(flat: Flat) -> Flat:
        parallel, shared, heads = flat["parallel_residual"], flat["shared_parallel_norm"], flat["kv_heads"]
        new = parallel and not (shared and heads == 1)
        norms = {"num_ln_in_parallel_attn": 1 if shared else 2} if new else {}
        one = {"new_decoder_architecture": new, "multi_query": heads == 1, "parallel_attn": parallel}
        return {**one, "num_kv_heads": heads, **norms}

    def read(config: Flat) -> Flat:
        heads, parallel = config["num_attention_heads"], config.get("parallel_attn", True)
        if config.get("new_decoder_architecture", False):
            shared = (config.get("num_ln_in_parallel_attn") or 2) == 1
            kv_heads = config.get("num_kv_heads") or heads
            _refuse_unless(parallel, "parallel_attn", parallel)
        else:
            shared = parallel
            kv_heads = 1 if config.get("multi_query", True) else config.get("num_kv_heads") or heads
        return {"kv_heads": kv_heads, "parallel_residual": parallel, "shared_parallel_norm": shared}

    keys = ("new_decoder_architecture", "multi_query", "parallel_attn", "num_kv_heads", "num_ln_in_parallel_attn")
    return Part(keys, ("kv_heads", "parallel_residual", "shared_parallel_norm"), write, read)


PARTS: Mapping[str, Callable[..., Part]] = {
    "rope": rope,
    "layered_rope": layered_rope,
    "layer_kinds": layer_kinds,
    "without_rope": without_rope,
    "router_loss": router_loss,
    "shared_experts": shared_experts,
    "leading_dense": leading_dense,
    "multi_query": multi_query,
    "falcon_decoder": falcon_decoder,
}

_KINDS = {True: "full_attention", False: "sliding_attention"}


def _write_rope(flat: Flat, base: float) -> dict[str, Any]:
    if "rope.scaling.kind" not in flat:
        return {"rope_type": "default", "rope_theta": base}
    kind = flat["rope.scaling.kind"]
    values = {_THEIRS.get(name, name): flat[f"rope.scaling.{name}"] for name in _SCALING[kind]}
    return {"rope_type": kind, "rope_theta": base, **values}


def _read_scaling(given: Flat, config: Flat) -> dict[str, Any]:
    kind = given.get("rope_type", given.get("type", "default"))
    if kind in (None, "default"):
        return {"rope.scaling": None}
    _refuse_unless(kind in _SCALING, "rope_type", kind)
    stated = {ours: given.get(_THEIRS.get(ours, ours), _YARN.get(ours)) for ours in _SCALING[kind]}
    stated["original_positions"] = stated.get("original_positions") or config["max_position_embeddings"]
    return {"rope.scaling.kind": kind, **{f"rope.scaling.{name}": value for name, value in stated.items()}}


def _scaled(config: Flat) -> Flat:
    scaling: Flat = config.get("rope_scaling") or {}
    return scaling


def _refuse_unless(holds: bool, name: str, value: object) -> None:
    if not holds:
        raise NoCounterpartError(f"{name}: {value} has no counterpart here")
