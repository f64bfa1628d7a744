"""Layers that Megatron-core's HybridModel lacks, for its ``--spec meshwright.train.hybrid_layers NAME``.

NAME says which parts, as ``model.megatron_parts`` writes it: Megatron imports what has that name, a specification of
the stack, and builds the decoder and its layers of multi-token prediction from it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import Tensor

from meshwright.model.megatron_parts import Parts, read_name

__all__ = ["amended"]

Pair = tuple[Tensor, Tensor | None]

_LAYERS = ("mamba_layer", "gdn_layer", "attention_layer", "dsa_layer", "mla_layer", "mlp_layer", "moe_layer")
_ADDITIONS = ("mamba_bda", "self_attn_bda", "mlp_bda")


def __getattr__(name: str) -> Any:
    """The specification of that name. Megatron asks for it by ``__import__``, which reads packages alone so."""
    parts = read_name(name)
    if parts is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from megatron.training.models import hybrid

    globals()[name] = amended(hybrid.default_hybrid_stack_spec, parts)
    return globals()[name]


def amended(stack: ModuleSpec, parts: Parts) -> ModuleSpec:
    """A copy of Megatron's own specification of the stack whose layers have ``parts``."""
    made = deepcopy(stack)
    for layer in _LAYERS:
        submodules = getattr(made.submodules, layer).submodules
        for name in _ADDITIONS:
            if getattr(submodules, name, None) is get_bias_dropout_add and "residual_scale" in parts:
                setattr(submodules, name, _scaling(float(parts["residual_scale"])))
    return made


def _scaling(factor: float) -> Callable[[bool, bool], Callable[[Pair, Tensor, float], Tensor]]:
    """Megatron's addition to the residual, of what a part gave times ``factor``."""

    def get(training: bool, fused: bool) -> Callable[[Pair, Tensor, float], Tensor]:
        add = get_bias_dropout_add(training, fused)

        def added(pair: Pair, residual: Tensor, probability: float) -> Tensor:
            output, bias = pair
            summed: Tensor = add((output * factor, None if bias is None else bias * factor), residual, probability)
            return summed

        return added

    return get
