"""Memory that stands beside a layer's: the losses of predicting layers, and what the optimizer's step takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.cost.framework import framework_of
from meshwright.cost.memory import Memory
from meshwright.model.optimizer_state import step_bytes
from meshwright.resolver import layout, normalise, resolve
from meshwright.spec import MegatronOptions, Model, Spec
from meshwright.spec.techniques import Quantization

TOKENS, WORDS = 512, 1024
MODEL = small_model(vocab=WORDS, max_positions=TOKENS)


def made(model: Model = MODEL, training: dict[str, Any] | None = None, **options: Any) -> Spec:
    """Two GPUs, ZeRO-1, one sequence each."""
    plain = spec(model, 2, sequence=TOKENS, global_batch=2, zero=1)
    megatron = replace(plain.backend.megatron, **options)
    return replace(
        plain,
        training=replace(plain.training, **(training or {})),
        backend=replace(plain.backend, megatron=megatron),
    )


def memory(one: Spec) -> Memory:
    return cost(resolve(one)).stages[0]


def test_each_predicting_layer_keeps_what_megatrons_loss_keeps() -> None:
    """Byte by byte: of the logits and of what the head reads."""
    pytest.importorskip("megatron.core")
    program = Path(__file__).with_name("kept_by_prediction.py")
    sizes = (str(TOKENS), str(MODEL.hidden), str(WORDS))
    done = subprocess.run([sys.executable, str(program), *sizes], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"torch.float32": 4 * TOKENS * WORDS, "torch.bfloat16": 2 * TOKENS * MODEL.hidden}
    one, two = (memory(made(replace(MODEL, mtp=n))).logits for n in (1, 2))
    assert two - one == sum(found.values())


def test_a_fused_loss_keeps_its_exponentials_as_the_plain_one_does() -> None:
    for fused in (True, False):
        one, two = (memory(made(replace(MODEL, mtp=n), cross_entropy_fusion=fused)).logits for n in (1, 2))
        assert two - one == TOKENS * (4 * WORDS + 2 * MODEL.hidden)


@pytest.mark.parametrize(
    ("training", "options", "expected"),
    [
        ({"grad_reduce": "fp32"}, {}, 0),
        ({"grad_reduce": "bf16"}, {}, 4),
        ({"grad_reduce": "bf16"}, {"precision_aware_optimizer": True}, 0),  # reads them as they are
        ({"grad_reduce": "bf16"}, {"precision_aware_optimizer": True, "optimizer_master": "fp16"}, 4),  # the master
        ({"grad_reduce": "bf16", "precision": "mxfp8"}, {"precision_aware_optimizer": True}, 4),  # not in 8 bits
        ({"grad_reduce": "bf16", "precision": "fp32"}, {}, 0),
    ],
)
def test_bytes_that_a_step_takes_of_a_parameter(
    training: dict[str, Any], options: dict[str, Any], expected: float
) -> None:
    one = replace(spec(MODEL, 2, sequence=TOKENS, global_batch=2).training, **training)
    assert step_bytes(one, MegatronOptions(**options)) == expected


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("reduced", ["bf16", "fp32"])
def test_megatron_copies_gradients_of_fewer_bits_for_the_step(reduced: str, aware: bool) -> None:
    """What its distributed optimizer makes of a gradient beside the buffer that it lies in."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("megatron.core.optimizer.distrib_optimizer")
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[reduced]
    parameter, shard = (torch.nn.Parameter(torch.zeros(64, dtype=d)) for d in (torch.bfloat16, torch.float32))
    parameter.main_grad = torch.zeros(64, dtype=kind)
    optimizer = SimpleNamespace(
        is_stub_optimizer=False,
        ddp_config=SimpleNamespace(use_megatron_fsdp=False),
        config=SimpleNamespace(use_precision_aware_optimizer_no_fp8_or_ds_fp8=aware),
        model_float16_groups=[[parameter]],
        shard_float16_groups=[[shard]],
        shard_fp32_from_float16_groups=[[shard]],
        model_fp32_groups=[],
        shard_fp32_groups=[],
        _get_model_param_range_map=lambda _: {"param": SimpleNamespace(start=0, end=64, size=64)},
    )
    module.DistributedOptimizer._copy_model_grads_to_main_grads(optimizer)
    made_of = shard.decoupled_grad if aware else shard.grad
    own = made_of.untyped_storage().data_ptr() != parameter.main_grad.untyped_storage().data_ptr()
    training = replace(spec(MODEL, 2).training, grad_reduce=reduced)  # type: ignore[arg-type]
    options = MegatronOptions(precision_aware_optimizer=aware)
    assert own * made_of.element_size() == step_bytes(training, options)


def test_the_step_is_the_peak_where_activations_are_less() -> None:
    """Of one short sequence: activations go, and copies of a rank's half of the gradients come in their place."""
    short = replace(made(training={"grad_reduce": "bf16"}), model=small_model(layers=64))
    small = memory(replace(short, training=replace(short.training, sequence=8)))
    states = small.weights + small.gradients + small.optimizer + small.communication + small.framework
    assert small.total == states + 4 * small.gradients / 2 / 2
    assert memory(replace(short, training=replace(short.training, sequence=8, grad_reduce="fp32"))).workspace < 2**20


@pytest.mark.parametrize(("zero", "expected"), [(1, 4), (3, 2)])
def test_megatron_fsdp_shards_both_codes_of_mxfp8_and_no_sixteen_bits(zero: int, expected: float) -> None:
    """Megatron's own buffers have 16 bits beside both codes, to gather into."""
    codes = Quantization(param_gather=True, reuse_gradient_buffer=False)
    one = made(training={"precision": "mxfp8", "grad_reduce": "bf16"}, fsdp="megatron", quantization=codes)
    one = replace(one, parallelism=replace(one.parallelism, zero=zero))
    assert framework_of(layout(normalise(one))).weight_bytes == expected
