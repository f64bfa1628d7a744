"""What kernels move around attention, and what a checkpoint runs again: counted in torch, as the backends call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from builders import small_model, spec
from meshwright.cost import estimate
from meshwright.cost.compute import layer
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import Scene, scene
from meshwright.cost.recomputation import needless
from meshwright.model.kinds import kinds
from meshwright.model.layers.latent_attention import LATENT_ATTENTION
from meshwright.model.operation import FUSED, Kernels, Operation, Tensor
from meshwright.model.operations import decoder_layer
from meshwright.resolver import layout, normalise
from meshwright.spec import Backend
from meshwright.spec.model import Mla, Model, Moe

VIEWS = ("view", "split", "transpose", "slice", "expand", "unsqueeze", "detach", "reshape", "alias", "t", "select")
LATENT = Mla(q_lora_rank=64, kv_lora_rank=32, qk_nope_dim=128, qk_rope_dim=64, v_dim=128)
MLA = small_model(heads=128, kv_heads=128, mla=LATENT)


class Moved(TorchDispatchMode):
    """Bytes that torch's kernels read and write, each tensor of what is broadcast once; names of what was called."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.called = 0, list[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = function(*args, **(kwargs or {})), function.overloadpacket.__name__
        self.called.append(name)
        if not name.lstrip("_").startswith(VIEWS) or "backward" in name:
            self.bytes += sum(map(_size, _tensors((args, out))))
        return out


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from _tensors(part)


def _size(tensor: torch.Tensor) -> int:
    kept = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(torch.Size(kept).numel()) * tensor.element_size()


@contextmanager
def moved() -> Iterator[Moved]:
    with Moved() as mode:
        yield mode


def both_ways(apply: Callable[..., Any], *inputs: torch.Tensor) -> tuple[int, int]:
    """Bytes of a forward and of its backward."""
    with moved() as forward:
        given = apply(*inputs)
    gradients = [torch.empty_like(one) for one in given]
    with moved() as backward:
        torch.autograd.backward(given, gradients)
    return forward.bytes, backward.bytes


def leaf(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True)


def named(operations: tuple[Operation, ...], name: str) -> Operation:
    (found,) = (o for o in operations if o.name == name)
    return found


def first_layer(model: Model, kernels: Kernels) -> tuple[Operation, ...]:
    return decoder_layer(model, kinds(model)[0], kernels)


def size(tensors: tuple[Tensor, ...]) -> float:
    return float(sum(t.size for t in tensors))


def test_megatron_turns_and_joins_latent_attention_in_so_many_bytes() -> None:
    """multi_latent_attention.py ``qkv_up_proj_and_rope_apply``, where no kernel does it."""
    from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_bshd as turn

    tokens, heads, content, turned, values = 64, MLA.heads, LATENT.qk_nope_dim, LATENT.qk_rope_dim, LATENT.v_dim
    angles = torch.zeros(tokens, 1, 1, turned)

    def joined(q: torch.Tensor, kv: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (query, asked), (key, value) = q.split([content, turned], -1), kv.split([content, values], -1)
        asked, position = (turn(one, angles, mla_rotary_interleaved=True) for one in (asked, position))
        keys = torch.cat([key, position.expand(-1, -1, heads, -1)], -1)
        return torch.cat([query, asked], -1), keys, value.contiguous()

    sizes = (heads, content + turned), (heads, content + values), (1, turned)
    counted = both_ways(joined, *(leaf(tokens, 1, *each) for each in sizes))
    ours = _around_latent(MLA, replace(FUSED, rope=False))
    assert ours == pytest.approx(tuple(each / tokens for each in counted), rel=0.02)


def _around_latent(model: Model, kernels: Kernels) -> tuple[float, float]:
    """Bytes of a token, forward and backward, beside the products: with what attention itself turns of queries."""
    with_rope, without = (
        {o.name: o for o in LATENT_ATTENTION.operations(replace(model, positions=p), kernels)} for p in ("rope", "none")
    )
    assert model.mla is not None
    product = 2 * model.mla.kv_lora_rank + 2 * model.heads * (model.mla.qk_nope_dim + model.mla.v_dim)
    up = with_rope["attention.kv_up"]
    turned = size(with_rope["attention.core"].moved) - size(without["attention.core"].moved)
    forward = size(up.moved) - product
    return forward + turned, 2 * (forward + turned) + size(up.returned)


def test_one_kernel_turns_and_joins_latent_attention_in_a_third() -> None:
    fused, pieced = (_around_latent(MLA, replace(FUSED, rope=rope)) for rope in (True, False))
    assert 2.5 < pieced[0] / fused[0] < 3.5


def test_transformers_turn_queries_and_keys_in_so_many_bytes() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    tokens, channels = 64, 128
    angles = torch.zeros(1, tokens, channels, dtype=torch.bfloat16)
    queries, keys = leaf(1, 32, tokens, channels), leaf(1, 8, tokens, channels)
    counted = both_ways(lambda q, k: apply_rotary_pos_emb(q, k, angles, angles), queries, keys)
    model = small_model(heads=32, kv_heads=8, head_dim=channels)
    turning = named(first_layer(model, replace(FUSED, rope=False)), "attention.positions")
    forward = size(turning.moved)
    ours = forward, 2 * forward + size(turning.returned)
    assert ours == pytest.approx(tuple(each / tokens for each in counted), rel=0.02)


def test_megatron_compiles_a_squared_relu_and_transformers_do_not() -> None:
    """A relu and a power move twice what one kernel does."""
    from megatron.core import activations
    from transformers.activations import ACT2FN

    assert hasattr(activations.squared_relu, "_torchdynamo_orig_callable")
    x = leaf(64, 256)
    with moved() as apart:
        ACT2FN["relu2"](x)
    model = small_model(activation="squared_relu", ffn=256)
    kernels = FUSED, replace(FUSED, activation=False)
    one, two = (named(first_layer(model, each), "mlp.activation") for each in kernels)
    assert size(two.moved) == 2 * size(one.moved) == apart.bytes / 64


class Kept(torch.autograd.Function):
    """A product as Transformer Engine has them: what its backward needs is kept once it has run."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight.T, x.T @ gradient


@pytest.mark.parametrize(("product", "again"), [(torch.mm, 1), (Kept.apply, 2)], ids=["torch", "Transformer Engine"])
def test_a_checkpoint_ends_ahead_of_the_last_product(product: Callable[..., Any], again: int) -> None:
    """Of two products, forward and backward take six; what runs beside them is run again."""
    weights = leaf(8, 8), leaf(8, 8)

    def block(x: torch.Tensor) -> torch.Tensor:
        given: torch.Tensor = product(torch.relu(product(x, weights[0])), weights[1])
        return x + given

    with moved() as mode:
        checkpoint(block, leaf(4, 8), use_reentrant=False).sum().backward()
    assert mode.called.count("mm") == 6 + again


def of(model: Model, **options: Any) -> Scene:
    return scene(layout(normalise(spec(model, 8, sequence=4096, global_batch=8, recompute="full", **options))))


def early(s: Scene, *, engine: bool, on: bool = True, **changes: Any) -> Scene:
    kernels = replace(s.framework.kernels, joined=engine, weighs_outputs=False)
    return replace(s, framework=replace(s.framework, ends_early=on, kernels=kernels, **changes))


def test_what_a_checkpoint_leaves_out_is_not_run_again() -> None:
    s = of(small_model(hidden=4096, ffn=16384, heads=32, kv_heads=32, head_dim=128))
    operations = s.layers[0]
    whole, without = (early(s, engine=False, on=on) for on in (False, True))
    assert needless(whole, operations) == ()
    assert needless(without, operations) == ("residual", "mlp.down")
    assert needless(early(s, engine=True), operations) == ("residual",)
    spared = layer(whole, operations).recompute - layer(without, operations).recompute
    alone = layer(whole, [o for o in operations if o.name in ("residual", "mlp.down")]).forward
    assert spared == pytest.approx(float(alone), rel=1e-6)


def test_a_checkpoint_does_not_receive_what_experts_send_back() -> None:
    s = of(small_model(moe=Moe(experts=8, topk=2, ffn=64)), ep=8)
    operations = s.layers[0]
    assert "combine" in needless(early(s, engine=True, sends_once=True), operations)
    assert "combine" not in needless(early(s, engine=True, sends_once=False), operations)


def test_only_torchs_own_checkpoints_end_early() -> None:
    usual = spec(small_model(), 8, global_batch=8, recompute="full")
    megatron, deepspeed = (replace(usual, backend=Backend(name=name)) for name in ("megatron", "deepspeed"))
    assert framework_of(layout(normalise(deepspeed))).ends_early
    assert not framework_of(layout(normalise(megatron))).ends_early


def test_a_pipeline_of_torchs_waits_for_each_stage_in_turn() -> None:
    """With four stages what is reduced and gathered is waited for four times as long, in every run of it."""
    numbers = layout(normalise(spec(small_model(layers=8), 32, pp=4, zero=1, global_batch=256)))
    usual = framework_of(numbers)
    once = replace(usual, emptied_every=numbers.microbatches, overlaps_gather=False)
    often = replace(once, emptied_every=numbers.microbatches // 4)
    alone, four = (float(estimate(numbers, framework).parts.data) for framework in (once, often))
    assert four == pytest.approx(4 * alone)
    assert alone > 4 * float(estimate(numbers, replace(usual, overlaps_gather=False)).parts.data)
