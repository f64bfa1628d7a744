"""DeepSpeed's BF16_Optimizer, of ZeRO-1 in bf16 with sums in fp32: its bytes, and a reduction that nothing hides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meshwright.cost import cost
from meshwright.cost.collectives import data_group, ring
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.model.offload import kept, sums_beside
from meshwright.resolver import layout, resolve
from meshwright.spec import DeepSpeedOptions, Offload, Training
from meshwright.verify.pool import Crash, fork_map

RANKS, MICRO_BATCHES = 64, 4
LLAMA = (
    "model=llama3_8b",
    "cluster=dgx_h100",
    f"cluster.gpus={RANKS}",
    "backend=deepspeed",
    "parallelism=zero1",
    "training.sequence=4096",
    f"training.global_batch={RANKS * MICRO_BATCHES}",
)
SUMS_IN_16_BITS = "training.grad_reduce=bf16"


def planned(*words: str) -> Plan:
    return resolve(load([*LLAMA, *words]).stages[0])


def test_bytes_of_a_parameter() -> None:
    """2 of the weight, 2 + 4 of gradients on every rank, 12 of states that are shared; and no buckets."""
    plan = planned()
    stage, n = cost(plan).stages[0], plan.total_parameters
    assert stage.weights + stage.gradients + stage.optimizer == pytest.approx((2 + 2 + 4 + 12 / RANKS) * n)
    assert stage.communication == 0
    assert cost(planned(SUMS_IN_16_BITS)).stages[0].gradients == pytest.approx(2 * n)
    assert cost(planned("parallelism.zero=2")).stages[0].gradients == pytest.approx(4 * n / RANKS)


def test_gradients_are_all_reduced_after_the_backward() -> None:
    """Two passes of 4 bytes and one of the new weights' 2, whether or not an overlap is asked for."""
    plan = planned()
    found, n = cost(plan), plan.total_parameters
    s = scene(layout(plan.spec))
    group = data_group(s)
    assert found.step.data == pytest.approx(ring(s, group, 4 * n, passes=2) + ring(s, group, 2 * n), rel=1e-3)
    assert found.step.data == cost(planned("parallelism.overlap_grad_reduce=false")).step.data
    flow = found.traffic.data
    assert flow.size == pytest.approx((2 * 4 + 2) * n * (RANKS - 1) / RANKS)
    assert flow.collective == "all-reduce and all-gather"


def test_sums_in_16_bits_are_scattered_beside_the_backward() -> None:
    hidden, exposed = (
        cost(planned(SUMS_IN_16_BITS, f"parallelism.overlap_grad_reduce={on}")) for on in ("true", "false")
    )
    assert hidden.step.data < exposed.step.data < cost(planned()).step.data / 2
    assert hidden.traffic.data.collective == "reduce-scatter and all-gather"


def test_each_micro_batch_is_copied_and_each_step_clips_all() -> None:
    plan = planned()
    gpu, e = plan.spec.cluster.accelerator, plan.spec.cluster.efficiency
    rate, n = gpu.memory_bandwidth_gb_s * 1e9 * e.memory, plan.total_parameters
    seconds = cost(plan).step.optimizer - cost(planned(SUMS_IN_16_BITS)).step.optimizer
    assert seconds == pytest.approx(12 * n * (1 - 1 / RANKS) / rate)
    # a product's 4, two sums read and written, 28 in all but the first, which neither zeroes its 16 bits nor adds
    each = 4 + 2 * 6 + framework_of(layout(plan.spec)).gradient_passes
    assert MICRO_BATCHES * each == 20 + (MICRO_BATCHES - 1) * 28
    assert framework_of(layout(planned(SUMS_IN_16_BITS).spec)).gradient_passes == 0


@pytest.mark.parametrize(
    ("zero", "changes", "offload", "beside"),
    [
        (1, {}, "none", True),
        (2, {}, "none", False),
        (1, {"grad_reduce": "bf16"}, "none", False),
        (1, {"precision": "fp32"}, "none", False),
        (1, {}, "cpu", False),
    ],
)
def test_deepspeed_takes_it_there_alone(zero: int, changes: dict[str, Any], offload: str, beside: bool) -> None:
    options = DeepSpeedOptions(offload_optimizer=Offload(device=offload))  # type: ignore[arg-type]
    training = Training(sequence=1, **changes)
    assert bool(sums_beside(options, training, zero)) is beside
    pytest.importorskip("deepspeed")
    (found,) = fork_map(_taken, [(zero, training.precision, training.grad_reduce, offload)])
    assert not isinstance(found, Crash), found
    assert (found == "BF16_Optimizer") is beside


def test_fp16_has_an_optimizer_of_its_own() -> None:
    """Which no engine makes on a CPU."""
    assert not sums_beside(DeepSpeedOptions(), Training(sequence=1, precision="fp16"), 1)


def test_stages_of_a_search_are_told_apart() -> None:
    gradients = kept(DeepSpeedOptions(), Training(sequence=1), np.array([1, 2, 3]), 1, 100).gradient
    assert list(gradients) == [6, 4, 4]


def test_an_engine_keeps_both_and_reduces_once_a_step_what_is_summed() -> None:
    """Two micro-batches and a step of a real engine; what it keeps is weighed, what it sends recorded."""
    pytest.importorskip("deepspeed")
    (found,) = fork_map(_weighed, [2])
    assert not isinstance(found, Crash), found
    bytes_kept, sent, parameters = found
    assert bytes_kept == kept(DeepSpeedOptions(), Training(sequence=1), 1, 2, parameters).gradient * parameters
    assert sent == [[], [(parameters, "torch.float32")]], "of each micro-batch, beside the norm's few numbers"


def _engine(zero: int, precision: str, sums: str, offload: str) -> Any:
    import os

    import deepspeed
    import torch

    from meshwright.train.deepspeed_patches import without_compiler

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    without_compiler()
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64, bias=False) for _ in range(4)))
    mixed = {} if precision == "fp32" else {precision: {"enabled": True}, "data_types": {"grad_accum_dtype": sums}}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "communication_data_type": sums,
        **mixed,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {"stage": zero, "overlap_comm": True, "offload_optimizer": {"device": offload}},
        "zero_force_ds_cpu_optimizer": False,
    }
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]


def _taken(case: tuple[int, str, str, str]) -> str:
    """The class of the optimizer that an engine makes."""
    return type(_engine(*case).optimizer).__name__


def _weighed(microbatches: int) -> tuple[int, list[list[tuple[int, str]]], int]:
    """(bytes of gradients at the end of a step's last backward, what each micro-batch sent, parameters)."""
    import deepspeed.runtime.engine as module
    import torch

    engine = _engine(1, "bf16", "fp32", "none")
    sent: list[list[tuple[int, str]]] = []
    reduce = module.dist.all_reduce

    def recorded(tensor: Any, *args: Any, **named: Any) -> Any:
        sent[-1].append((tensor.numel(), str(tensor.dtype)))
        return reduce(tensor, *args, **named)

    module.dist.all_reduce = recorded
    for index in range(microbatches):
        loss = engine(torch.randn(1, 64, dtype=torch.bfloat16)).float().pow(2).mean()
        sent.append([])
        engine.backward(loss)
        if index + 1 < microbatches:
            engine.step()
    weights = list(engine.module.parameters())
    tensors = [*engine.optimizer.fp32_groups_gradients_flat, *(weight.grad for weight in weights)]
    return sum(t.numel() * t.element_size() for t in tensors), sent, sum(w.numel() for w in weights)
