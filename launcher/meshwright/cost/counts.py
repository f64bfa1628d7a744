"""FLOPs of a model by operation, and of a token of training under the conventions in which MFU is published.

==========  ==================  ==================  =============================================
convention  matrix products     attention           used by
==========  ==================  ==================  =============================================
megatron    with the head       full                Korthikanti et al. 2022; NeMo; MegaScale
palm        6 times parameters  full, in windows    Chowdhery et al. 2022; llm-foundry; Hagemann
causal      with the head       halved              Megatron-Bridge; what a causal kernel computes
hardware    megatron, and what is recomputed        Narayanan et al. 2021; MT-NLG; BLOOM (as HFU)
==========  ==================  ==================  =============================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from meshwright.model.kinds import count_kinds
from meshwright.model.operations import Operation, decoder_layer, head, mtp_layer
from meshwright.model.work import forward_flops, palm_flops
from meshwright.spec.model import Model

__all__ = [
    "CONVENTIONS",
    "Convention",
    "forward_by_operation",
    "hardware_flops",
    "recomputed",
    "regions",
    "training_flops",
]

Convention = Literal["megatron", "palm", "causal"]
CONVENTIONS: tuple[Convention, ...] = ("megatron", "palm", "causal")


def forward_by_operation(model: Model, sequence: int, causal: bool = False) -> dict[str, int]:
    """FLOPs of one token's forward pass, by operation, over all layers and the head."""
    groups: list[tuple[tuple[Operation, ...], int]] = [
        (decoder_layer(model, kind), count) for kind, count in count_kinds(model, 0, model.layers).items()
    ]
    if model.mtp:
        groups.append((mtp_layer(model), model.mtp))
    groups.append((head(model, model.vocab, False), 1 + model.mtp))
    result: dict[str, int] = {}
    for operations, count in groups:
        for o in operations:
            result[o.name] = result.get(o.name, 0) + count * forward_flops(o, sequence, causal)
    return {name: flops for name, flops in result.items() if flops}


def training_flops(model: Model, sequence: int, convention: Convention = "megatron") -> float:
    """FLOPs of one token, forward and backward (twice the forward)."""
    if convention == "palm":
        return palm_flops(model, sequence)
    return 3.0 * sum(forward_by_operation(model, sequence, convention == "causal").values())


def hardware_flops(
    model: Model,
    sequence: int,
    recompute: Literal["none", "selective", "full"],
    modules: tuple[str, ...] | None = None,
    part: float = 1.0,
) -> float:
    """FLOPs of one token with what is computed twice: ``part`` of the layers' forward, or that of ``modules``.

    The head is outside every checkpoint.
    """
    by_name = forward_by_operation(model, sequence)
    layers = {name: flops for name, flops in by_name.items() if name != "head"}
    chosen = sum(flops for name, flops in layers.items() if _within(name, modules))
    again = {"none": 0.0, "selective": float(chosen), "full": part * sum(layers.values())}[recompute]
    return training_flops(model, sequence) + again


def recomputed(o: Operation, modules: tuple[str, ...] | None) -> bool:
    """Whether selective recomputation of ``modules`` runs ``o`` twice."""
    if o.name.endswith("norm") and not any(t.recompute == "layernorm" for t in o.saved):
        return False  # it is joined to the linear behind it
    return _within(o.name, modules)


_OPERATIONS = {
    "core_attn": ("attention.core",),
    "mlp": ("mlp.",),
    "moe": ("router", "latent.", "dispatch", "experts.", "combine", "shared_experts."),
    "shared_experts": ("shared_experts.",),
    "layernorm": ("attention.norm", "mlp.norm"),
    "act": ("mlp.activation",),
    "second_matmul": ("mlp.up",),
    "moe_act": ("experts.activation",),
    "mla_up_proj": ("attention.query_up", "attention.kv_up"),
}
"""Operations of each module of Megatron's ``--recompute-modules``, by the beginning of their names."""


def regions(names: Iterable[str], modules: tuple[str, ...] | None) -> int:
    """How often selective recomputation of ``modules`` starts anew in a layer: each of its norms is by itself."""
    names, chosen = tuple(names), modules or ("core_attn",)
    found = {m: sum(name.startswith(_OPERATIONS.get(m, ())) for name in names) for m in chosen}
    return sum(count if module == "layernorm" else count > 0 for module, count in found.items())


def _within(name: str, modules: tuple[str, ...] | None) -> bool:
    return any(name.startswith(_OPERATIONS.get(module, ())) for module in modules or ("core_attn",))
