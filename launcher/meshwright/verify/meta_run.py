"""One forward pass on the meta device, watched: FLOPs, what autograd keeps, bytes moved, kernels, by layer.

Attention stands in for a flash kernel (it keeps queries, keys, values and its output, never the scores), and experts
work on the tokens sent to them as one product of the same size, for which expert does not matter to the shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["Seen", "stand_ins", "watch"]


@dataclass
class Seen:
    """What happened in one layer (or outside all). Bytes and FLOPs of all tokens."""

    flops: int = 0
    saved: int = 0
    moved: int = 0
    kernels: int = 0
    storages: set[int] = field(default_factory=set)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation that writes, for the layer that is being run."""

    def __init__(self, model: Any, layers: Sequence[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outside, self.of_layer = Seen(), [Seen() for _ in layers]
        self.here = self.outside
        self.parameters = {_storage(parameter) for parameter in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        known = {_storage(t) for t in inputs}
        if not outputs or (all(_storage(t) in known for t in outputs) and not func._schema.is_mutable):
            return out  # a view
        self.here.kernels += 1
        self.here.moved += sum(_bytes(t) for t in (*inputs, *outputs) if _storage(t) not in self.parameters)
        count = flop_registry.get(func._overloadpacket)
        self.here.flops += int(count(*args, **kwargs, out_val=out)) if count else 0
        return out

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that autograd saves; each storage counts once, where it was first kept."""
        place = _storage(tensor)
        if place not in self.parameters and place not in self.here.storages:
            self.here.storages.add(place)
            self.here.saved += _bytes(tensor)
        return tensor

    def enter(self, seen: Seen) -> Callable[..., None]:
        """A hook that makes ``seen`` the layer that is run."""

        def hook(*_: Any) -> None:
            self.here = seen

        return hook


def watch(model: Any, layers: Sequence[Any], tokens: int) -> tuple[Seen, list[Seen]]:
    """(outside of all layers, in each layer) of one sequence of ``tokens``."""
    seen = _Watch(model, layers)
    _ATTENTION.append(seen)
    handles = []
    for layer, of_layer in zip(layers, seen.of_layer, strict=True):
        handles += [layer.register_forward_pre_hook(seen.enter(of_layer))]
        handles += [layer.register_forward_hook(seen.enter(seen.outside))]
    words = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    try:
        with torch.autograd.graph.saved_tensors_hooks(seen.keep, lambda t: t), seen:
            model(input_ids=words, use_cache=False)
    finally:
        _ATTENTION.pop()
        for handle in handles:
            handle.remove()
    return seen.outside, seen.of_layer


_ATTENTION: list[_Watch] = []
"""Whom the stand-in for attention tells its FLOPs."""


class _Flash(torch.autograd.Function):
    """Shapes of attention without scores: queries (b, h, s, d), keys and values (b, h_kv, s, d)."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        raise NotImplementedError


def _attend(query: Any, key: Any, value: Any, window: int | None) -> Any:
    seen = min(key.shape[-2], window or key.shape[-2])
    rows = query.shape[0] * query.shape[1] * query.shape[2]
    if _ATTENTION:
        _ATTENTION[-1].here.flops += 2 * rows * seen * (query.shape[-1] + value.shape[-1])
    return _Flash.apply(query, key, value)  # type: ignore[no-untyped-call]


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any = None, **named: Any) -> tuple[Any, None]:
    return _attend(query, key, value, named.get("sliding_window")).transpose(1, 2).contiguous(), None


def _torch_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
    return _attend(query, key, value, None)


def _experts(self: Any, hidden: Any, chosen: Any, weights: Any) -> Any:
    """Every chosen token through an expert of the same shape; stacked weights are (experts, outputs, inputs)."""
    tokens, k = chosen.shape[0], chosen.shape[-1]
    routed = hidden[torch.arange(tokens * k, device=hidden.device) // k]
    up = _product(routed, self.gate_up_proj if self.has_gate else self.up_proj, self.is_transposed)
    inner = self._apply_gate(up) if self.has_gate else self.act_fn(up)
    out = _product(inner, self.down_proj, self.is_transposed) * weights.reshape(-1, 1).to(inner.dtype)
    return out.reshape(tokens, k, -1).sum(1)


def _product(tokens: Any, stacked: Any, transposed: bool) -> Any:
    return tokens @ (stacked[0] if transposed else stacked[0].t())


@contextmanager
def stand_ins() -> Iterator[None]:
    """Attention and experts as described above, in transformers' tables of implementations."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    with ExitStack() as stack:
        for name in ("sdpa", "flash_attention_2"):
            stack.enter_context(mock.patch.dict(ALL_ATTENTION_FUNCTIONS._global_mapping, {name: _attention}))
        every = {name: _experts for name in ("eager", *ALL_EXPERTS_FUNCTIONS._global_mapping)}
        stack.enter_context(mock.patch.dict(ALL_EXPERTS_FUNCTIONS._global_mapping, every))
        get = type(ALL_EXPERTS_FUNCTIONS)
        stack.enter_context(mock.patch.object(get, "get_interface", return_value=_experts))
        packed = "transformers.masking_utils.find_packed_sequence_indices"  # looks at values
        stack.enter_context(mock.patch(packed, return_value=None))
        stack.enter_context(mock.patch("torch.nn.functional.scaled_dot_product_attention", _torch_attention))
        yield


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
