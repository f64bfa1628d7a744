"""Techniques of a measured row: from its columns to the options of a backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.measured.cells import count, number, said
from meshwright.spec.techniques import ActivationOffload, CudaGraphs, ExpertOptions, FsdpOptions, Quantization

__all__ = ["capacity_of", "fsdp_of", "optimizer_of", "overlaps", "overlaps_tensor", "technique_options", "weights_of"]

_FLEX = ("deepep", "hybridep")
_STATIC = {
    "moe_rank_capacity": 1.5,
    "moe_paged_stash": True,
    "experts": ExpertOptions(stash_gpu=1.2, stash_host=1.0),
}
"""Of mixtures in graphs of an iteration, where no expert is padded.

Megatron-Bridge v0.5.0, scripts/performance/configs/deepseek/deepseek_llm_pretrain.py:58, gpt_oss_llm_pretrain.py:48."""


def technique_options(record: Mapping[str, str], experts: bool) -> dict[str, Any]:
    """Of MegatronOptions, what ``graphs dispatcher fusions overlap offload capacity`` say; ``experts``: a mixture.

    Raises:
        ValueError: where a cell means nothing.

    """
    graphs = _graphs(record)
    static = _STATIC if graphs.kind == "full_iteration" and not capacity_of(record)[1] else {}
    always = {"cuda_graphs": graphs, "activation_offload": _offload(record)}
    return {**always, **({**_of_experts(record), **static} if experts else {})}


def overlaps(record: Mapping[str, str], experts: bool) -> bool:
    """Whether the exchange of experts' tokens runs beside another micro-batch's products."""
    return experts and "ep" in _words(record, "overlap")


def capacity_of(record: Mapping[str, str]) -> tuple[float | None, bool]:
    """Of an even share, what an expert takes at most, and whether it is padded to it: ``1.1 padded``, ``none``.

    Raises:
        ValueError: where the cell means nothing.

    """
    factor, _, padded = said(record, "capacity").replace("none", "").partition(" ")
    if padded not in ("", "padded"):
        raise ValueError(f"capacity = {factor} {padded}: a number of even shares, and padded where experts are")
    return number({"capacity": factor}, "capacity"), bool(padded)


def overlaps_tensor(record: Mapping[str, str]) -> bool:
    """Whether what tensor-parallel ranks exchange runs beside products in pieces (asynchronous TP)."""
    return "tp" in _words(record, "overlap")


def weights_of(record: Mapping[str, str], precision: str, stage: int) -> Quantization:
    """As Megatron-Bridge's recipes have them: 8-bit ones are gathered as such, 4-bit ones since its release 26.06.

    Its ``training/mixed_precision.py`` at each tag; mxfp8's go through the gradients' buffer but where a ``stage`` of
    ZeRO shards these.
    """
    four = precision == "nvfp4" and said(record, "release") >= "26.06"
    low = four or precision in ("fp8_tensorwise", "fp8_delayed", "mxfp8")
    last = count(record, "bf16_layers", 0, least=0)
    reused = precision == "mxfp8" and stage < 2
    return Quantization(param_gather=low, reuse_gradient_buffer=reused, last_layers_bf16=last)


def fsdp_of(record: Mapping[str, str]) -> FsdpOptions:
    """What Megatron-FSDP does beside sharding: ``double_buffer``, ``outer_optimizer``, both joined by ``+``, ``none``.

    Raises:
        ValueError: where the cell means nothing.

    """
    words = _words(record, "fsdp") - {"", "none"}
    if not words <= {"double_buffer", "outer_optimizer"}:
        raise ValueError(f"fsdp = {said(record, 'fsdp')} is none of none, double_buffer and outer_optimizer")
    return FsdpOptions(**dict.fromkeys(words, True))


def optimizer_of(record: Mapping[str, str]) -> dict[str, Any]:
    """What Megatron-Bridge's optimizer keeps: ``fp16+bf16`` in ``states`` is an fp16 master and moments in bf16.

    Moments of DeepSeek V3 are in bf16 (its recipes/deepseek/deepseek_v3.py:272). Its precision-aware optimizer keeps
    whole fp32 masters, in bf16, too: MixedPrecisionConfig writes ``fp8_recipe = tensorwise`` into the optimizer's
    options (training/mixed_precision.py:50 at v0.2.0 to v0.5.1), with which Megatron-core's masters are its own
    (core/optimizer/optimizer_config.py ``use_precision_aware_optimizer_no_fp8_or_ds_fp8``).
    """
    usual = "fp32+bf16" if said(record, "model").lower().startswith("deepseek-v3") else "fp32+fp32"
    master, _, moments = (said(record, "states") or usual).partition("+")
    if master not in ("fp32", "fp16") or moments not in ("fp32", "bf16"):
        raise ValueError(f"states = {master}+{moments}: fp32 or fp16 of the master, and of the moments fp32 or bf16")
    return {"precision_aware_optimizer": master == "fp16", "optimizer_moments": moments, "optimizer_master": master}


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
        "experts": ExpertOptions(padded_to_capacity=capacity_of(record)[1]),
    }


def _graphs(record: Mapping[str, str]) -> CudaGraphs:
    kind, _, modules = (said(record, "graphs") or "none").partition("-")[0].partition(":")
    if kind not in ("none", "local", "transformer_engine", "full_iteration"):
        raise ValueError(f"graphs = {kind} is none of none, local, transformer_engine and full_iteration")
    return CudaGraphs(kind=kind, modules=tuple(filter(None, modules.split("+"))))  # type: ignore[arg-type]


def _offload(record: Mapping[str, str]) -> ActivationOffload:
    """``40 layers``, or modules joined by ``+``, behind a colon the elements of a tensor that leaves, at least."""
    words = said(record, "offload")
    if words in ("", "none"):
        return ActivationOffload()
    if words.endswith("layers"):
        return ActivationOffload(layers=int(words.split()[0]))
    modules, _, least = words.partition(":")
    elements = count({"offload": least}, "offload", ActivationOffload().min_elements, least=0)
    return ActivationOffload(modules=tuple(modules.split("+")), min_elements=elements)


def _words(record: Mapping[str, str], column: str) -> set[str]:
    return set(said(record, column).split("+"))
