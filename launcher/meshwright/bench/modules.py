"""Megatron's modules beside the operations of our table that they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from meshwright.cost.compute import head, layer, operation
from meshwright.cost.inputs import Scene, scene
from meshwright.layout.plan import Plan
from meshwright.model.operations import Operation
from meshwright.resolver import layout
from meshwright.spec.frozen import dataclass

__all__ = ["Row", "rows"]

MODULES = {
    "input_layernorm": ("attention.norm",),
    "self_attention.linear_qkv": ("attention.qkv",),
    "self_attention.linear_q_proj": ("attention.query",),
    "self_attention.linear_q_down_proj": ("attention.query_down",),
    "self_attention.q_layernorm": ("attention.query_norm",),
    "self_attention.linear_q_up_proj": ("attention.query_up",),
    "self_attention.linear_kv_down_proj": ("attention.kv_down",),
    "self_attention.k_layernorm": ("attention.key_norm",),
    "self_attention.kv_layernorm": ("attention.kv_norm",),
    "self_attention.linear_kv_up_proj": ("attention.kv_up",),
    "self_attention.core_attention": ("attention.core",),
    "self_attention.linear_proj": ("attention.output",),
    "pre_mlp_layernorm": ("mlp.norm",),
    "mlp.linear_fc1": ("mlp.up",),
    "mlp.linear_fc2": ("mlp.down",),
    "mlp.router": ("router",),
    "mlp.experts": ("experts.up", "experts.activation", "experts.down"),
    "mlp.shared_experts": ("shared_experts.up", "shared_experts.activation", "shared_experts.down"),
}
"""Modules of a layer (megatron/core/transformer/transformer_layer.py) with the operations each one does."""

JOINED = {
    "attention.norm": ("attention.qkv", "attention.query"),
    "mlp.norm": ("mlp.up",),
    "attention.query_norm": ("attention.query_up",),
    "attention.kv_norm": ("attention.kv_up",),
}
"""Norms that Transformer Engine joins to the linear behind: where the norm's module does nothing, its time is there."""


@dataclass(frozen=True)
class Row:
    """A module with its prediction and, once timed, its measurement; (forward, backward) in seconds."""

    name: str
    operations: tuple[str, ...]
    predicted: tuple[float, float]
    module: Any = None
    measured: tuple[float, float] = (0.0, 0.0)

    def timed(self, forward: float, backward: float) -> Row:
        """With what was measured, and without the module."""
        return replace(self, module=None, measured=(forward, backward))


def rows(plan: Plan, model: Any) -> list[Row]:
    """The modules of the first layer of a GPTModel, then the layer as a whole, then the head with its loss."""
    s = scene(layout(plan.spec))
    operations = {o.name: o for o in s.layers[0]}
    of_layer = list(_of_layer(s, operations, model.decoder.layers[0]))
    whole, ends = layer(s, operations.values()), head(s)
    return [
        *of_layer,
        Row("layer", ("all",), (float(whole.forward), float(whole.backward)), model.decoder.layers[0]),
        Row("head", ("head", "loss"), (float(ends.forward), float(ends.backward)), model.output_layer),
    ]


def _of_layer(s: Scene, operations: dict[str, Operation], built: Any) -> Iterator[Row]:
    found = {path: module for path in MODULES if _does(module := _at(built, path))}
    alone = {name for path in found for name in MODULES[path]}
    for path, module in found.items():
        joined = [norm for norm, behind in JOINED.items() if norm not in alone and set(behind) & set(MODULES[path])]
        names = tuple(name for name in (*joined, *MODULES[path]) if name in operations)
        if names:
            each = [operation(s, operations[name]) for name in names]
            yield Row(path, names, (float(sum(o.forward for o in each)), float(sum(o.backward for o in each))), module)


def _at(built: Any, path: str) -> Any:
    for name in path.split("."):
        built = getattr(built, name, None)
    return built


def _does(module: Any) -> bool:
    return module is not None and type(module).__name__ not in ("IdentityOp", "IdentityFuncOp")
