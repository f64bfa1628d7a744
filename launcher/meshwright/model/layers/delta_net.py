"""Gated delta nets: linear attention whose states forget and are corrected (arXiv:2412.06464).

Parameters as megatron/core/ssm/gated_delta_net/common.py makes them; tensors kept for the backward as
flash-linear-attention's ``ChunkGatedDeltaRuleFunction`` and Megatron's module around it keep them.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.model.layers.part import Exchange, Part
from meshwright.model.layers.shared import linear, norm
from meshwright.model.operation import Kernels, Operation, Tensor, Weight
from meshwright.spec.model import DeltaNet, Model

__all__ = ["DELTA_NET"]

CHUNK = 64  # tokens that the kernel works on at once (fla/ops/gated_delta_rule/chunk.py)


def _delta_net(model: Model, kernels: Kernels) -> Iterator[Operation]:
    net = _net(model)
    values, mixed = net.value_heads * net.value_dim, _mixed(net)
    yield linear("delta_net.input", model.hidden, _projected(net))
    convolution = (Weight("delta_net.convolution.weight", mixed * net.kernel, "tp"),)
    yield Operation("delta_net.convolution", convolution, (Tensor(2 * mixed, "tp"),), (Tensor(4 * mixed, "tp"),))
    yield _rule(net)
    yield norm(model, "delta_net.output_norm", net.value_dim, "tp", times=net.value_heads)
    gated = (Tensor(2 * values, "tp"), Tensor(kernels.input_bytes("delta_net.output") * values, "tp"))
    yield Operation("delta_net.gate", saved=gated, moved=(Tensor(6 * values, "tp"),))
    yield linear("delta_net.output", values, model.hidden, row=True)


def _rule(net: DeltaNet) -> Operation:
    """The recurrence by chunks; queries and keys stand there once for each head of values, before that once normed.

    Its products are those Megatron counts: keys and values with keys, the state's update, queries with the state
    (megatron/training/training.py:494).
    """
    heads, state = net.value_heads, net.key_dim * net.value_dim
    inputs = heads * (2 * net.key_dim + net.value_dim)
    normed = 2 * net.key_heads * net.key_dim
    weights = (Weight("delta_net.step.bias", heads, "tp"), Weight("delta_net.decay", heads, "tp"))
    saved = (Tensor(2 * inputs + 2 * normed, "tp"), Tensor(heads * (4 + 2 + 2 * CHUNK), "tp"))
    states = 4 * heads * state // CHUNK
    moved = (Tensor(4 * inputs + 4 * normed + 2 * heads * net.value_dim + states, "tp"),)
    return Operation("delta_net.core", weights, saved, moved, products=4 * heads * state, kernels=8)


def _net(model: Model) -> DeltaNet:
    assert model.delta_net is not None
    return model.delta_net


def _mixed(net: DeltaNet) -> int:
    """Channels of queries, keys and values, which the convolution mixes over time."""
    return 2 * net.key_heads * net.key_dim + net.value_heads * net.value_dim


def _projected(net: DeltaNet) -> int:
    """With an output gate, and two numbers a head: how much is forgotten, how much written."""
    return _mixed(net) + net.value_heads * net.value_dim + 2 * net.value_heads


def _exchange(model: Model) -> Exchange:
    """Megatron gives each rank of a context-parallel group whole sequences of its heads (gdn.py: tensor_a2a_cp2hp)."""
    net = _net(model)
    return Exchange(dealt=_projected(net) + net.value_heads * net.value_dim)


DELTA_NET = Part(
    symbol="G",
    options=("delta_net",),
    operations=_delta_net,
    norm="delta_net.norm",
    exchange=_exchange,
    widest=lambda model: _projected(_net(model)),
)
