"""A mixture of experts: routing, the experts on the tokens sent to them, and the shared ones on every token.

Routed experts may see fewer channels than the model has: tokens are projected down before they are sent, and up when
they are back, by linears that every rank holds whole (megatron/core/transformer/moe/moe_layer.py:265).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.model.layers.mlp import mlp
from meshwright.model.layers.part import Part
from meshwright.model.layers.shared import activation, linear, norm
from meshwright.model.operation import Kernels, Operation, Tensor, Weight
from meshwright.spec.model import Model, Moe

__all__ = ["EXPERTS"]


_BIASED = {True: 80, False: 32}
"""Bytes moved for each element that experts give, where biases are added to it; by whether that is done in pieces.

Behind Transformer Engine's grouped products Megatron adds them in fp32 and expert by expert, joins and casts
(megatron/core/transformer/moe/experts.py ``_apply_bias``): 68 bytes forward and backward, counted kernel by kernel.
NVIDIA's rows of gpt-oss in bf16 ask for three times that, at sequences of 4,096 and 8,192 alike: 80 is settled on
them, 32 on those of 26.06 and 26.08, where products and activation are one operation.
"""


def _experts(model: Model, kernels: Kernels) -> Iterator[Operation]:
    moe = _moe(model)
    k, hidden = moe.topk, moe.latent or model.hidden
    routed = Tensor(2 * k * hidden, "routed", "moe")
    yield _router(model, moe, kernels)
    if moe.latent:
        yield linear("latent.input", model.hidden, moe.latent, "replicated", model.linear_bias)
    before, behind = (2, 1) if kernels.permute else (6, 4)
    sent, weighed = (Tensor(4 * k * hidden, "routed"),), (routed,) if kernels.weighs_outputs else ()
    yield Operation("dispatch", saved=(), moved=sent, region="dispatch", kernels=before)
    yield from _products(model, moe, kernels, hidden)
    yield Operation("combine", saved=weighed, moved=sent, region="combine", kernels=behind)
    if moe.latent:
        kept = (Tensor(2 * moe.latent, "sequence", "moe"),)
        yield replace(linear("latent.output", moe.latent, model.hidden, "replicated", model.linear_bias), saved=kept)
    if moe.shared_ffn:
        yield from mlp(model, moe.shared_ffn, kernels, "shared_experts")
    if moe.shared_gate:
        kept = (Tensor(2 * (model.hidden + 1), "sequence", "moe shared_experts"),)  # the gate, and what it multiplies
        yield Operation("shared_experts.gate", (Weight("shared_experts.gate", model.hidden, "replicated"),), kept)
    if moe.output_norm:
        yield norm(model, "experts.output_norm", model.hidden, kernels=kernels, multiplied=False)


def _router(model: Model, moe: Moe, kernels: Kernels) -> Operation:
    logits = (Tensor(8 * moe.experts, "sequence", "moe"),)
    scores = Weight("router.weight", moe.experts * model.hidden, "replicated", rows=moe.experts)
    count = model.linear_bias + (moe.router_bias and moe.bias_parameter)
    added = (Weight("router.bias", moe.experts, "replicated"),) * count
    return Operation("router", (scores, *added), tuple(_scores(moe)), logits, kernels=2 if kernels.router else 6)


def _scores(moe: Moe) -> Iterator[Tensor]:
    """All experts' scores in fp32, but of a softmax over the chosen ones these alone; again for an auxiliary loss.

    And a weight of each token that is sent (megatron/core/transformer/moe/moe_utils.py).
    """
    apart = moe.score != "softmax"  # scores that do not sum to one, and are divided by their sum
    first = not apart and moe.score_before_topk and not moe.normalize_topk
    whole, chosen = moe.has_auxiliary_loss + (apart or first), (not first) * 4 * moe.topk
    yield Tensor(whole * 4 * (moe.experts + apart) + chosen, "sequence", "moe")
    yield Tensor((4 if apart else 2) * moe.topk, "routed", "moe")


def _products(model: Model, moe: Moe, kernels: Kernels, hidden: int) -> Iterator[Operation]:
    """The experts' own MLPs, on ``hidden`` channels of each token as often as it is routed."""
    k, columns = moe.topk, moe.ffn * (2 if model.gated else 1)
    routed = Tensor(2 * k * hidden, "routed", "moe")
    elements = kernels.input_width("experts.up", k * hidden)
    kept = Tensor(kernels.input_bytes("experts.up") * k * hidden, "routed", "moe", widths=(elements,))
    up, down = (
        Weight("experts.up", hidden * columns, "expert", moe.experts, columns),
        Weight("experts.down", moe.ffn * hidden, "expert", moe.experts, hidden, inputs_cut=True),
    )
    biases = _biases(model, columns)
    ffn_in, ffn_out = Tensor(2 * k * columns, "expert"), Tensor(2 * k * moe.ffn, "expert")
    outside, wide, narrow = Tensor(k * hidden, "routed"), Tensor(k * columns, "expert"), Tensor(k * moe.ffn, "expert")
    into, out_of = ((outside,), (wide,)), ((narrow,), (outside,))
    yield Operation("experts.up", (up, *biases[:1]), (kept,), (routed, ffn_in), topk=k, casts=into)
    yield activation(model, "experts.activation", k * moe.ffn, (), kernels, "moe")
    biased = Tensor((_BIASED[kernels.pieced_biases] if biases else 0) * k * hidden, "routed")
    yield Operation("experts.down", (down, *biases[1:]), (), (ffn_out, routed, biased), topk=k, casts=out_of)


def _biases(model: Model, columns: int) -> tuple[Weight, ...]:
    """Of each expert's two linear layers."""
    if not model.linear_bias:
        return ()
    experts, width = _moe(model).experts, _moe(model).latent or model.hidden
    return (
        Weight("experts.up.bias", columns, "expert", experts),
        Weight("experts.down.bias", width, "expert", experts),
    )


def _moe(model: Model) -> Moe:
    assert model.moe is not None
    return model.moe


EXPERTS = Part(
    symbol="E",
    options=("moe",),
    operations=_experts,
    norm="mlp.norm",
    own_norm=True,
    gathered=lambda model: model.hidden if _moe(model).shared_ffn else None,  # a shared expert is an MLP like any other
    widest=lambda model: _moe(model).topk * _moe(model).ffn * (2 if model.gated else 1),
    routed=True,
)
