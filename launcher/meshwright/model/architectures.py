"""One table of correspondences between our Model and config.json of Hugging Face transformers 5, read both ways.

A Part says which keys of config.json carry which fields of Model. What an architecture fixes in its code (GPT-2 always
has biases) is *implied*; a key that must hold one value to mean what we mean is *required*. A Model is a flat mapping
here: ``{"layers": 32, "moe.experts": 8, ...}``. Sources: transformers 5.24 models/<model_type>/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any

from meshwright.spec.frozen import dataclass
from meshwright.spec.model import Indexer, Mamba, Model, Moe, Multipliers, Rope

__all__ = [
    "UNWRITTEN",
    "Architecture",
    "Flat",
    "NoCounterpartError",
    "Part",
    "flatten",
    "formula",
    "key",
    "refuse_unless",
    "resolved",
]

Flat = Mapping[str, Any]

UNWRITTEN = (
    "name",
    "transformers",
    "measured",
    "mtp_loss_weight",
    "mtp_detached",
    "moe.quantile_ema",
    "moe.balancing",
    "moe.aux_loss",
    "moe.z_loss",
    "moe.bias_update_rate",
    "moe.capacity_factor",
    "indexer.loss",
    "indexer.sparse_loss",
)
"""Fields that say how a model is called or trained, not what it computes: config.json need not hold them."""


class NoCounterpartError(ValueError):
    """A value that is as it should be, and that no Model can say."""


@dataclass(frozen=True)
class Part:
    """``keys`` of config.json and the ``paths`` of Model they carry; ``write`` and ``read`` see everything."""

    keys: tuple[str, ...]
    paths: tuple[str, ...]
    write: Callable[[Flat], Flat]
    read: Callable[[Flat], Flat]


@dataclass(frozen=True)
class Architecture:
    """One ``model_type`` of transformers.

    What DeepSpeed 0.19.8 makes of it: ``autotp``: AutoTP cuts it and losses stay the same on two ranks (measured; it
    rejects the plans of all others, or follows them wrongly), by transformers' own plan of its layers, if it has one
    (``tp_plan``); ``ulysses``: attention goes through the function that
    Ulysses replaces; ``expert_preset``: AutoEP knows its experts under this name.
    """

    model_type: str
    name: str
    parts: tuple[Part, ...]
    implied: Flat = field(default_factory=dict)  # a value, or a function of the flat model
    required: Flat = field(default_factory=dict)  # likewise
    ignored: tuple[str, ...] = ()  # keys that mean nothing once the required ones hold
    optional: tuple[str, ...] = ()  # parts of a Model that it can do without
    former: Flat = field(default_factory=dict)  # keys that nothing reads any more, and the values that lose nothing
    sdpa: bool = True  # PyTorch's scaled_dot_product_attention is implemented
    flash: bool = True
    autotp: bool = True
    tp_plan: bool = True
    ulysses: bool = True
    expert_preset: str | None = None

    @property
    def carried(self) -> frozenset[str]:
        """Fields that config.json carries."""
        return frozenset(path for part in self.parts for path in part.paths)

    def fixed(self, path: str, flat: Flat) -> Any:
        """What a field that config.json does not carry always is in this architecture."""
        return resolved(self.implied[path] if path in self.implied else _DEFAULTS.get(path), flat)


def key(
    path: str, name: str, default: Any = ..., write: Any = None, read: Any = None, former: tuple[str, ...] = ()
) -> Part:
    """One key for one field. ``default``: what transformers takes where the key is absent (... : it must be there).

    A default that is a function of the flat model is left as it is, for the reader to resolve.
    ``write`` and ``read`` translate the value: functions, or mappings from their values to the other side's.
    ``former`` are other names of the key, which older files use.
    """
    to, back, names = _translation(write), _translation(read), (name, *former)

    def reading(config: Flat) -> Flat:
        given = {other: config[other] for other in names if config.get(other) is not None}
        if any(value != next(iter(given.values())) for value in list(given.values())[1:]):
            raise ValueError(f"contradicts one of its other names: {given}")
        if callable(default) and not given:
            return {path: default}
        return {path: back(next(iter(given.values()), default))}

    return Part(names, (path,), lambda flat: {name: to(flat[path])} if path in flat else {}, reading)


def refuse_unless(holds: bool, name: str, value: object) -> None:
    """Raise NoCounterpartError for a value that no Model can say, unless ``holds``."""
    if not holds:
        raise NoCounterpartError(f"{name}: {value} has no counterpart here")


def resolved(value: Any, flat: Flat) -> Any:
    """``value``, or what it is for the model ``flat`` where it is a function."""
    return value(flat) if callable(value) else value


def formula(value: Any) -> Any:
    """``"= hidden // heads"``, as entries write it, as a function of the flat model; any other value as it is."""
    return _FORMULAS[value[2:]] if isinstance(value, str) and value.startswith("= ") else value


def _per_head(flat: Flat) -> int:
    if not flat["heads"]:
        raise ValueError(f"there are {flat['heads']} attention heads")
    return int(flat["hidden"] // flat["heads"])


def _topk_method(flat: Flat) -> str:
    return "greedy" if flat["moe.groups"] == 1 else "group_limited_greedy"


_FORMULAS: Mapping[str, Callable[[Flat], Any]] = {
    "heads": lambda flat: flat["heads"],
    "hidden": lambda flat: flat["hidden"],
    "vocab": lambda flat: flat["vocab"],
    "full_attention_every": lambda flat: flat["full_attention_every"],
    "parallel_residual": lambda flat: flat["parallel_residual"],
    "hidden // heads": _per_head,
    "4 * hidden": lambda flat: 4 * flat["hidden"],
    "sqrt(hidden)": lambda flat: flat["hidden"] ** 0.5,
    "moe.ffn": lambda flat: flat["moe.ffn"],
    "not moe.normalize_topk": lambda flat: not flat["moe.normalize_topk"],
    "mla.qk_nope_dim + mla.qk_rope_dim": lambda flat: flat["mla.qk_nope_dim"] + flat["mla.qk_rope_dim"],
    "greedy, or group_limited_greedy with groups": _topk_method,
}


def flatten(value: Any, root: str = "") -> dict[str, Any]:
    """The fields of a dataclass by dotted path; parts that are None keep their own name (``{"moe": None}``)."""
    flat: dict[str, Any] = {}
    for item in fields(value):
        inner, path = getattr(value, item.name), f"{root}{item.name}"
        flat |= flatten(inner, f"{path}.") if is_dataclass(inner) else {path: inner}
    return flat


def _translation(table: Any) -> Callable[[Any], Any]:
    if table is None:
        return lambda value: value
    return table if callable(table) else lambda value: table[value]


def _defaults(cls: Any, root: str = "") -> dict[str, Any]:
    return {f"{root}{item.name}": item.default for item in fields(cls) if item.default is not MISSING}


_PARTS = (("", Model), ("rope.", Rope), ("moe.", Moe), ("indexer.", Indexer), ("mamba.", Mamba))
_DEFAULTS = {
    path: value
    for root, cls in (*_PARTS, ("multipliers.", Multipliers))
    for path, value in _defaults(cls, root).items()
}
