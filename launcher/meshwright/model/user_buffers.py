"""Transformer Engine's user buffers: which products of a layer have one, how they overlap, and the bytes of all.

Places: transformer_engine v2.13, pytorch/module/base.py ``initialize_ub`` and common/comm_gemm_overlap/.
They are registered memory outside PyTorch's allocator, there for the whole run whatever overlaps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from meshwright.spec.techniques import OverlappedProduct, TpOverlap

__all__ = ["KEYS", "METHODS", "buffer_bytes", "presets", "product_faults", "products"]

METHODS: Mapping[str, str] = {
    **dict.fromkeys(("qkv_fprop", "fc1_fprop", "proj_dgrad", "fc2_dgrad"), "ring_exchange"),
    **dict.fromkeys(("proj_fprop", "fc2_fprop"), "pipeline"),
    **dict.fromkeys(("qkv_dgrad", "qkv_wgrad", "fc1_dgrad", "fc1_wgrad"), "bulk"),
    **dict.fromkeys(("proj_wgrad", "fc2_wgrad"), "external"),
}
"""By product, what the engine does where nothing is said."""

_SCATTERS = ("proj_fprop", "fc2_fprop", "qkv_wgrad", "fc1_wgrad")
_OWN = {"qkv_dgrad": "qkv_wgrad", "fc1_dgrad": "fc1_wgrad"}
"""Products that scatter what they make unless they overlap in bulk, in which the second does."""

KEYS = {
    "method": "method",
    "num_sm": "sms",
    "cga_size": "cluster",
    "set_sm_margin": "sm_margin",
    "num_splits": "splits",
    "aggregate": "aggregate",
    "atomic_gemm": "atomic",
    "fp8_buf": "fp8_buffer",
}
"""The engine's keys, and ours."""


@cache
def presets() -> dict[str, dict[str, dict[str, Any]]]:
    """NVIDIA's tables by name (Megatron-Bridge@067f987df, training/comm_overlap.py), without those of LoRA.

    A pipeline's ``fp8_buf`` is there ``(False,)`` by a comma too many, which the engine takes as true where products
    are in 8 bits; here it is the false that is meant.
    """
    made: dict[str, dict[str, dict[str, Any]]] = json.loads(
        files("meshwright").joinpath("data/user_buffers.json").read_text("utf-8")
    )
    return made


def products(options: TpOverlap) -> dict[str, dict[str, Any]]:
    """What is said of each product, in the engine's words: the preset, and ``products`` instead of its entries."""
    said = dict(presets().get(options.preset, {})) if options.preset else {}
    return said | {one.name: _words(one) for one in options.products}


def _words(one: OverlappedProduct) -> dict[str, Any]:
    return {theirs: value for theirs, ours in KEYS.items() if (value := getattr(one, ours)) is not None}


def product_faults(said: Mapping[str, Mapping[str, Any]], eight: bool) -> Iterator[str]:
    """What ``initialize_ub`` stops at; ``eight``: products are in 8 bits."""
    for name, words in said.items():
        if name not in METHODS:
            yield f"{name} is none of {', '.join(METHODS)}"
            continue
        method = _method(name, said)
        if method == "pipeline" and not _scatters(name, said):
            yield f"{name} gathers, which no pipeline does"
        if (method == "external") != (METHODS[name] == "external"):
            yield f"{name} is {METHODS[name]}, not {method}: external are proj_wgrad and fc2_wgrad, always"
        if words.get("atomic_gemm") and not eight:
            yield f"{name}: atomic products are of 8 bits"
    for dgrad, wgrad in _OWN.items():
        if wgrad in said and _method(dgrad, said) != "bulk":
            yield f"{wgrad} has no buffer where {dgrad} is {_method(dgrad, said)}, not bulk"


def buffer_bytes(options: TpOverlap, elements: Any, tp: Any, kinds: tuple[bool, ...]) -> Any:
    """Bytes on one rank, ``elements`` being those of a micro-batch's hidden states before tp cuts them.

    ``kinds``: whether products are in 8 bits, for each set of buffers; layers kept in bf16 have a set of their own.
    A ring that scatters receives from every other rank beside its own chunks (``CommOverlapP2PBase::initialize``).
    """
    said = products(options)
    return elements * sum(
        _width(name, said, eight) * _chunks(name, said, tp) for eight in kinds for name in _made(said)
    )


def _method(name: str, said: Mapping[str, Mapping[str, Any]]) -> str:
    return str(said.get(name, {}).get("method", METHODS[name]))


def _made(said: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Products with a buffer: without that of weights' gradients where inputs' gradients scatter by themselves."""
    lost = [wgrad for dgrad, wgrad in _OWN.items() if _method(dgrad, said) != "bulk"]
    return [name for name in METHODS if name not in lost]


def _scatters(name: str, said: Mapping[str, Mapping[str, Any]]) -> bool:
    return name in _SCATTERS or (name in _OWN and _method(name, said) != "bulk")


def _width(name: str, said: Mapping[str, Mapping[str, Any]], eight: bool) -> int:
    """What is gathered is in 8 bits where products are; what a pipeline scatters, where it is said so."""
    coded = not _scatters(name, said) or (
        _method(name, said) == "pipeline" and bool(said.get(name, {}).get("fp8_buf", False))
    )
    return 1 if eight and coded else 2


def _chunks(name: str, said: Mapping[str, Mapping[str, Any]], tp: Any) -> Any:
    ring = _method(name, said) == "ring_exchange" and _scatters(name, said)
    return (2 * tp - 1) / tp if ring else 1
