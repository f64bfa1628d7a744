"""What each technique is predicted to bring: a plan with it against the same plan without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from math import gcd
from typing import Any

from meshwright.resolver import layout, normalise, override
from meshwright.rules import Layout, broken
from meshwright.rules.requirements import needed
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass

__all__ = ["SAID", "TECHNIQUES", "Technique", "applied", "at", "changed", "of_backend", "used"]

SAID = 0.05
"""Part of a step from which on a bubble, or what a group that leaves NVLink costs, is worth a note. Ours."""

Change = Mapping[str, Any]

_B, _D, _P = "backend.megatron.", "backend.deepspeed.", "parallelism."


@dataclass(frozen=True)
class Technique:
    """``on``: the changes that switch it on, none where the description has no place for it; ``off``: its defaults.

    ``derived``: what follows from either anew.
    """

    name: str
    on: Callable[[Spec], Change]
    off: Change
    derived: Change = field(default_factory=dict)
    backend: str = "megatron"


def _with_experts(**values: object) -> Callable[[Spec], Change]:
    return lambda spec: {f"{_B}{name}": value for name, value in values.items()} if spec.model.moe else {}


def _padding(spec: Spec) -> Change:
    """Where a capacity bounds experts, and no bias learns from what they are sent."""
    moe = spec.model.moe
    bounded = moe is not None and moe.capacity_factor is not None and not moe.router_bias
    return {f"{_B}experts.padded_to_capacity": True} if bounded else {}


def _graphs(spec: Spec) -> Change:
    """Everything of a dense layer; of one with experts, what waits for no count of tokens."""
    modules = ("attn", "moe_router", "moe_preprocess") if spec.model.moe else ()
    return {f"{_B}cuda_graphs.kind": "transformer_engine", f"{_B}cuda_graphs.modules": modules}


def _dispatcher(spec: Spec) -> Change:
    """HybridEP where the NVLink domain spans nodes, else DeepEP."""
    wide = (spec.cluster.nvlink_domain or 0) > spec.cluster.gpus_per_node
    named = {f"{_B}moe_dispatcher": "flex", f"{_B}moe_flex_backend": "hybridep" if wide else "deepep"}
    return named if spec.model.moe else {}


def _expert_overlap(spec: Spec) -> Change:
    """Delayed weight gradients inside graphs are added up by the products that make them."""
    delayed = spec.backend.megatron.gradient_accumulation_fusion
    return {f"{_P}overlap_ep": True, f"{_B}delay_wgrad": bool(delayed)} if spec.model.moe else {}


def _weights(spec: Spec) -> Change:
    """As the precision has it."""
    if spec.training.precision in ("fp32", "fp16", "bf16"):
        return {}
    reuse = {f"{_B}quantization.reuse_gradient_buffer": True} if spec.training.precision == "mxfp8" else {}
    return {f"{_B}quantization.param_gather": True, **reuse}


def _activations(spec: Spec) -> Change:
    experts = ("moe_act",) if spec.model.moe else ()
    return {f"{_B}activation_offload.modules": ("core_attn", "attn_proj", *experts)}


def _weight_parts(spec: Spec) -> Change:
    """Dense weights in as many parts as NVLink joins GPUs, where nodes may have what gathers them."""
    fast = gcd(spec.cluster.gpus or 1, spec.cluster.nvlink_domain or spec.cluster.gpus_per_node)
    asked = replace(spec, parallelism=replace(spec.parallelism, gtp=fast))
    lacks = any(row.met_by(spec.software) is False for row in needed(asked, "megatron"))
    never = spec.model.tied_embeddings or spec.model.linear_bias or spec.model.qkv_bias or lacks
    return {} if never or fast == 1 else {f"{_P}gtp": fast, **_FROM_WORLD}


_FROM_WORLD = {f"{_P}dp": None}


def _pieces(spec: Spec) -> int:
    """So that a piece has as many tokens as the model is wide, as ALST has it (ulysses_sp.py:976)."""
    tokens = spec.training.sequence // spec.parallelism.cp
    return max(2, min(tokens, -(-tokens // spec.model.hidden)))


TECHNIQUES: tuple[Technique, ...] = (
    Technique(
        "cuda_graphs",
        _graphs,
        {f"{_B}cuda_graphs.kind": "none", f"{_B}cuda_graphs.modules": ()},
    ),
    Technique(
        "dispatcher",
        _dispatcher,
        {f"{_B}moe_dispatcher": "alltoall", f"{_B}moe_flex_backend": "deepep", f"{_B}moe_flex_sms": None},
    ),
    Technique("expert_padding", _padding, {f"{_B}experts.padded_to_capacity": False}),
    Technique("router_fusion", _with_experts(moe_router_fusion=True), {f"{_B}moe_router_fusion": False}),
    Technique("permute_fusion", _with_experts(moe_permute_fusion=True), {f"{_B}moe_permute_fusion": False}),
    Technique(
        "shared_overlap",
        lambda spec: (
            _with_experts(moe_shared_expert_overlap=True)(spec) if spec.model.moe and spec.model.moe.shared_ffn else {}
        ),
        {f"{_B}moe_shared_expert_overlap": False},
    ),
    Technique(
        "expert_overlap",
        _expert_overlap,
        {f"{_P}overlap_ep": False, f"{_B}delay_wgrad": False, f"{_B}experts.early_release": False},
    ),
    Technique(
        "early_release",
        lambda spec: _with_experts(**{"experts.early_release": True})(spec) if spec.parallelism.overlap_ep else {},
        {f"{_B}experts.early_release": False},
    ),
    Technique(
        "wgrad_beside_dispatch",
        lambda spec: (
            _with_experts(**{"experts.wgrad_beside_dispatch": True})(spec) if spec.parallelism.zero > 1 else {}
        ),
        {f"{_B}experts.wgrad_beside_dispatch": False},
    ),
    Technique(
        "low_precision_weights",
        _weights,
        {f"{_B}quantization.param_gather": False, f"{_B}quantization.reuse_gradient_buffer": False},
    ),
    Technique(
        "activation_offload",
        _activations,
        {
            f"{_B}activation_offload.modules": (),
            f"{_B}activation_offload.fraction": 1.0,
            f"{_B}activation_offload.min_elements": 1_048_576,
            f"{_B}activation_offload.inflight": None,
            f"{_B}activation_offload.layers": 0,
        },
    ),
    Technique(
        "optimizer_offload",
        lambda _: {
            f"{_B}optimizer_offload.fraction": 1.0,
            f"{_B}optimizer_offload.overlap": True,
            f"{_B}precision_aware_optimizer": True,
        },
        {f"{_B}optimizer_offload.fraction": 0.0, f"{_B}optimizer_offload.overlap": False},
    ),
    Technique("weight_parts", _weight_parts, {f"{_P}gtp": 1, f"{_P}egtp": 1}, _FROM_WORLD),
    Technique(
        "tiled_loss", lambda spec: {f"{_D}tiling.loss": _pieces(spec)}, {f"{_D}tiling.loss": 1}, backend="deepspeed"
    ),
    Technique(
        "tiled_mlp", lambda spec: {f"{_D}tiling.mlp": _pieces(spec)}, {f"{_D}tiling.mlp": 1}, backend="deepspeed"
    ),
    Technique(
        "deepep",
        lambda spec: {f"{_D}moe_dispatcher": "deepep"} if spec.model.moe and spec.parallelism.ep > 1 else {},
        {f"{_D}moe_dispatcher": "alltoall", f"{_D}moe_dispatcher_sms": 12},
        backend="deepspeed",
    ),
    Technique(
        "host_optimizer",
        lambda _: {f"{_D}offload_optimizer.device": "cpu"},
        {
            f"{_D}offload_optimizer.device": "none",
            f"{_D}offload_optimizer.nvme_path": None,
            f"{_D}offload_optimizer.ratio": 1.0,
            f"{_D}super_offload": False,
            f"{_D}zenflow.topk": None,
        },
        backend="deepspeed",
    ),
    Technique(
        "super_offload",
        lambda _: {f"{_D}offload_optimizer.device": "cpu", f"{_D}super_offload": True},
        {f"{_D}super_offload": False},
        backend="deepspeed",
    ),
    Technique(
        "zenflow",
        lambda _: {f"{_D}offload_optimizer.device": "cpu", f"{_D}zenflow.topk": 0.1},
        {f"{_D}zenflow.topk": None},
        backend="deepspeed",
    ),
)
"""In the order in which a search tries them; a name is what ``search.techniques`` lists."""


def used(spec: Spec) -> tuple[Technique, ...]:
    """Those that ``spec`` switches on."""
    return tuple(one for one in of_backend(spec.backend.name) if _changes(spec, one.off))


def of_backend(name: str) -> tuple[Technique, ...]:
    """Those that the backend has."""
    return tuple(one for one in TECHNIQUES if one.backend == name)


def applied(spec: Spec, change: Change) -> Spec | None:
    """``spec`` after a change; None where a rule refuses it."""
    after = changed(spec, change)
    return after if _numbers(after) is not None else None


def changed(spec: Spec, change: Change) -> Spec:
    """``spec`` with the values of ``change``, whether they hold or not."""
    for path, value in change.items():
        spec = override(spec, path, value)
    return spec


def _numbers(spec: Spec) -> Layout | None:
    numbers = layout(normalise(spec))
    return None if broken(numbers, spec.backend.name) else numbers


def _changes(spec: Spec, change: Change) -> bool:
    return any(at(spec, path) != value for path, value in change.items())


def at(spec: object, path: str) -> object:
    """What stands at the dotted ``path``."""
    for name in path.split("."):
        spec = getattr(spec, name)
    return spec
