"""Counts against the real thing: torch's flop counter on transformers, saved tensors of a Megatron layer."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Literal

import pytest

from builders import spec
from meshwright.cost.counts import forward_by_operation
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import Scene, scene
from meshwright.cost.saved import layer_input, saved
from meshwright.model.kinds import kinds
from meshwright.model.operation import Kernels
from meshwright.model.operations import decoder_layer
from meshwright.resolver import layout, normalise
from meshwright.spec import Model
from meshwright.spec.model import Moe

HIDDEN, HEADS, SEQUENCE, BATCH = 64, 4, 32, 2
"""Of the Megatron layer."""

MEASURE = """
import contextlib, json, os, sys, torch
import torch.cuda.random as random
from torch.testing._internal.distributed.fake_pg import FakeStore
torch.cuda.current_device = lambda: "cpu"  # the layer asks where to put its buffers and what to seed
random.get_rng_state = torch.cuda.get_rng_state = lambda *a, **k: torch.get_rng_state()
hidden, heads, sequence, batch = map(int, sys.argv[1:5])
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import build_module
from megatron.core.transformer.transformer_config import TransformerConfig
tensor_parallel.get_cuda_rng_tracker().fork = lambda *a: contextlib.nullcontext()
tensor_parallel.random._get_cuda_rng_state = lambda *a, **k: torch.get_rng_state()
mask = torch.triu(torch.ones(1, 1, sequence, sequence, dtype=torch.bool), 1)

class Norm(torch.nn.LayerNorm):  # Megatron's own refuses sequence parallelism without Apex
    def __init__(self, config, hidden_size, eps=1e-5):
        super().__init__(hidden_size, eps)

def measure(whole=False, qk_layernorm=False, **recompute):
    config = TransformerConfig(
        num_layers=1, hidden_size=hidden, num_attention_heads=heads, ffn_hidden_size=4 * hidden, add_bias_linear=False,
        hidden_dropout=0.0, attention_dropout=0.0, use_cpu_initialization=True, bf16=True, params_dtype=torch.bfloat16,
        bias_activation_fusion=False, masked_softmax_fusion=False, gradient_accumulation_fusion=False,
        tensor_model_parallel_size=tp, sequence_parallel=bool(sp), qk_layernorm=qk_layernorm, **recompute)
    parts = get_gpt_layer_local_spec(qk_layernorm=qk_layernorm)
    parts.submodules.input_layernorm = parts.submodules.pre_mlp_layernorm = Norm
    if qk_layernorm:
        inside = parts.submodules.self_attention.submodules
        inside.q_layernorm = inside.k_layernorm = Norm
    layer = build_module(parts, config=config, layer_number=1).to(torch.bfloat16)
    weights, kept, held = {p.untyped_storage().data_ptr() for p in layer.parameters()}, {}, []
    def pack(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor
    x = torch.randn(sequence // (tp if sp else 1), batch, hidden, dtype=torch.bfloat16, requires_grad=True)
    run = lambda x: layer(x, attention_mask=mask)[0]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tensor_parallel.checkpoint(run, False, x) if whole else run(x)
    return sum(kept.values())

selective = dict(recompute_granularity="selective", recompute_modules=["core_attn"])
kept = []
for tp, sp in json.loads(sys.argv[5]):
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=tp)  # shapes are those of rank 0
    parallel_state.initialize_model_parallel(tp, create_gloo_process_groups=False)
    normed = measure(qk_layernorm=True, **selective)
    kept.append({"none": measure(), "selective": measure(**selective), "full": measure(whole=True), "normed": normed})
    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()
print(json.dumps(kept))
"""
LAYOUTS = [(1, False), (2, False), (2, True)]  # tp, sp


@pytest.fixture(scope="module")
def layers() -> list[dict[str, int]]:
    """The bytes that Megatron's own layer keeps under each kind of recomputation, in each of the layouts."""
    pytest.importorskip("megatron.core")
    words = [*map(str, (HIDDEN, HEADS, SEQUENCE, BATCH)), json.dumps(LAYOUTS)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kept: list[dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return kept


@pytest.fixture(params=range(len(LAYOUTS)), ids=["tp 1", "tp 2", "tp 2 sp"])
def layer(request: pytest.FixtureRequest, layers: list[dict[str, int]]) -> tuple[int, bool, dict[str, int]]:
    """tp, sp, and what is kept there."""
    return *LAYOUTS[request.param], layers[request.param]


def scene_of(tp: int, sp: bool, recompute: str, qk_norm: Literal["none", "head"] = "none") -> Scene:
    model = Model(
        name="layer",
        layers=1,
        hidden=HIDDEN,
        ffn=4 * HIDDEN,
        heads=HEADS,
        kv_heads=HEADS,
        head_dim=HIDDEN // HEADS,
        vocab=128,
        max_positions=SEQUENCE,
        activation="gelu",
        norm="layernorm",
        positions="learned",
        qk_norm=qk_norm,
    )
    one = spec(model, tp, SEQUENCE, BATCH, tp=tp, sp=sp, recompute=recompute)
    one = replace(one, training=replace(one.training, micro_batch=BATCH))
    numbers = layout(normalise(one))
    return scene(numbers, replace(framework_of(numbers), kernels=Kernels(flash=False)))


def counted(tp: int, sp: bool, recompute: str, qk_norm: Literal["none", "head"] = "none") -> float:
    s = scene_of(tp, sp, recompute, qk_norm)
    return float(saved(s, s.layers[0]))


def test_selective_recomputation_keeps_what_megatron_keeps(layer: tuple[int, bool, dict[str, int]]) -> None:
    tp, sp, kept = layer
    statistics = 2 * 2 * 2 * SEQUENCE * BATCH // (tp if sp else 1)  # mean and deviation of two norms, 2 bytes each
    assert kept["selective"] == counted(tp, sp, "selective") + statistics


def test_norms_of_queries_and_keys_keep_what_they_were_given(layer: tuple[int, bool, dict[str, int]]) -> None:
    """And nothing of what they gave, which attention keeps."""
    tp, sp, kept = layer
    statistics = 2 * 2 * 2 * HEADS * SEQUENCE * BATCH // tp  # of both, for each head
    more = counted(tp, sp, "selective", "head") - counted(tp, sp, "selective")
    assert kept["normed"] - kept["selective"] == more + statistics


def test_without_recomputation_the_scores_stay(layer: tuple[int, bool, dict[str, int]]) -> None:
    """Megatron's unfused softmax goes through fp32: four bytes a score more than the fused one that we count."""
    tp, sp, kept = layer
    scores = HEADS * SEQUENCE * SEQUENCE * BATCH // tp
    assert kept["none"] - kept["selective"] == 6 * scores
    assert counted(tp, sp, "none") - counted(tp, sp, "selective") == 2 * scores


def test_full_recomputation_keeps_the_input(layer: tuple[int, bool, dict[str, int]]) -> None:
    tp, sp, kept = layer
    assert kept["full"] == layer_input(scene_of(tp, sp, "full"))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flops_equal_torchs_count(kv_heads: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        **sizes, num_key_value_heads=kv_heads, vocab_size=256, attn_implementation="eager"
    )
    with FlopCounterMode(display=False) as counter:
        transformers.LlamaForCausalLM(config)(torch.zeros(1, 32, dtype=torch.long))
    model = Model(
        name="llama",
        layers=2,
        hidden=64,
        ffn=160,
        heads=4,
        kv_heads=kv_heads,
        head_dim=16,
        vocab=256,
        max_positions=2048,
        activation="swiglu",
        norm="rmsnorm",
        positions="rope",
    )
    assert counter.get_total_flops() == 32 * sum(forward_by_operation(model, 32).values())


def test_nothing_keeps_what_experts_gave_where_scores_were_applied_before() -> None:
    """Megatron's sum over experts; transformers' modules multiply what they gave, and keep it."""
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("megatron.core.transformer.moe.moe_utils")
    tokens, topk, hidden = 8, 2, 16
    given = torch.randn(tokens * topk, hidden, requires_grad=True)
    kept = []

    def noted(one):
        kept.append(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda one: one):
        utils.unpermute(given, torch.arange(tokens).repeat(topk), torch.Size([tokens, hidden]))
    assert not [one for one in kept if one.is_floating_point()]
    moe = replace(scene_of(1, False, "none").layout.model, hidden=hidden, moe=Moe(experts=4, topk=topk, ffn=32))
    for weighs, size in ((False, 0), (True, 2 * topk * hidden)):
        layer = decoder_layer(moe, kinds(moe)[0], Kernels(weighs_outputs=weighs))
        (combine,) = [operation for operation in layer if operation.name == "combine"]
        assert sum(tensor.size for tensor in combine.saved) == size
