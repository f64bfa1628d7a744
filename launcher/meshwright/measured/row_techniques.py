"""Techniques of a measured row: from its columns to the options of a backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.measured.cells import said
from meshwright.spec.techniques import ActivationOffload, CudaGraphs

__all__ = ["overlaps", "technique_options"]

_FLEX = ("deepep", "hybridep")


def technique_options(record: Mapping[str, str], experts: bool) -> dict[str, Any]:
    """Of MegatronOptions, what the columns ``graphs dispatcher fusions overlap offload`` say; ``experts``: a mixture.

    Raises:
        ValueError: where a cell means nothing.

    """
    always = {"cuda_graphs": _graphs(record), "activation_offload": _offload(record)}
    return {**always, **(_of_experts(record) if experts else {})}


def overlaps(record: Mapping[str, str], experts: bool) -> bool:
    """Whether the exchange of experts' tokens runs beside another micro-batch's products."""
    return experts and "ep" in _words(record, "overlap")


def _of_experts(record: Mapping[str, str]) -> dict[str, Any]:
    dispatcher, fused, beside = said(record, "dispatcher"), _words(record, "fusions"), _words(record, "overlap")
    if dispatcher not in ("", "alltoall", "allgather", *_FLEX):
        raise ValueError(f"dispatcher = {dispatcher} is none of alltoall, allgather, deepep and hybridep")
    flex = dispatcher in _FLEX
    return {
        "moe_dispatcher": "flex" if flex else dispatcher or "alltoall",
        "moe_flex_backend": dispatcher if flex else "deepep",
        "moe_router_fusion": "router" in fused,
        "moe_permute_fusion": "permute" in fused,
        "op_fuser": "experts" in fused,
        "delay_wgrad": "wgrad" in beside,
        "moe_shared_expert_overlap": "shared" in beside,
    }


def _graphs(record: Mapping[str, str]) -> CudaGraphs:
    kind, _, modules = (said(record, "graphs") or "none").partition(":")
    if kind not in ("none", "local", "transformer_engine", "full_iteration"):
        raise ValueError(f"graphs = {kind} is none of none, local, transformer_engine and full_iteration")
    return CudaGraphs(kind=kind, modules=tuple(filter(None, modules.split("+"))))  # type: ignore[arg-type]


def _offload(record: Mapping[str, str]) -> ActivationOffload:
    """``40 layers``, or modules joined by ``+``."""
    words = said(record, "offload")
    if words in ("", "none"):
        return ActivationOffload()
    if words.endswith("layers"):
        return ActivationOffload(layers=int(words.split()[0]))
    return ActivationOffload(modules=tuple(words.split("+")))


def _words(record: Mapping[str, str], column: str) -> set[str]:
    return set(said(record, column).split("+"))
