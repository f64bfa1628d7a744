"""The dense feed-forward part."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.model.layers.part import Part
from meshwright.model.layers.shared import activation, linear
from meshwright.model.operation import Kernels, Operation, Tensor, Weight
from meshwright.spec.model import Model

__all__ = ["MLP", "mlp"]


def mlp(model: Model, ffn: int, kernels: Kernels, name: str = "mlp") -> Iterator[Operation]:
    """Up-projection (twice as wide where gated), activation, down-projection; also what a shared expert is."""
    up = ffn * (2 if model.gated else 1)
    joined = kernels.joined and name == "mlp"
    yield linear(f"{name}.up", model.hidden, up, bias=model.linear_bias, behind_norm=joined)
    weights = (Weight(f"{name}.activation.alpha", 2, "replicated"),) if model.activation == "xielu" else ()
    module = "mlp" if name == "mlp" else f"moe {name}"  # of shared experts: Megatron's "mlp" is a dense layer's alone
    # xielu: two learned scalars (arXiv:2411.13010)
    yield activation(model, f"{name}.activation", ffn, weights, kernels, module)
    yield linear(f"{name}.down", ffn, model.hidden, bias=model.linear_bias, row=True)
    if model.multipliers is not None:
        yield Operation(
            f"{name}.factors", moved=(Tensor(4 * up, "tp"), Tensor(4 * model.hidden, "sequence")), kernels=2
        )


MLP = Part(
    symbol="-",
    operations=lambda model, kernels: mlp(model, model.ffn, kernels),
    norm="mlp.norm",
    widest=lambda model: model.ffn * (2 if model.gated else 1),
)
