"""Offload by DeepSpeed: what stays on the GPU, what the host and its disks hold, what a step waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshwright.cost import cost
from meshwright.cost.memory import GIB
from meshwright.emit.environment import variables
from meshwright.errors import ConfigError
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.model.offload import kept, optimizer_part
from meshwright.resolver import resolve
from meshwright.spec import DeepSpeedOptions, Offload, Training
from meshwright.verify.pool import Crash, fork_map

LLAMA = (
    "model=llama3_8b",
    "cluster=dgx_h100",
    "backend=deepspeed",
    "parallelism=zero3",
    "training.sequence=4096",
    "training.global_batch=16",
)
ONE, NODE = "cluster.gpus=1", "cluster.gpus=8"
OPTIMIZER = "backend.deepspeed.offload_optimizer.device=cpu"
PARAMETERS = "backend.deepspeed.offload_param.device=cpu"
NVME = ("backend.deepspeed.offload_optimizer.device=nvme", "backend.deepspeed.offload_optimizer.nvme_path=/nvme")


def planned(*words: str) -> Plan:
    return resolve(load([*LLAMA, *words]).stages[0])


def states(plan: Plan) -> float:
    """Bytes of weights, gradients and optimizer on the GPU."""
    stage = cost(plan).stages[0]
    return float(stage.weights + stage.gradients + stage.optimizer)


def test_eight_billion_parameters_train_on_one_gpu_with_the_optimizer_on_the_host() -> None:
    found = cost(planned(ONE, OPTIMIZER))
    assert found.fits
    assert (found.stages[0].gradients, found.stages[0].optimizer) == (0, 0)
    assert not cost(planned(ONE)).fits


@pytest.mark.parametrize("gpus", [1, 8])
def test_zero_3_agrees_with_deepspeeds_estimator(gpus: int) -> None:
    """It leaves out the buffer in which gradients are summed, 4 bytes a parameter, for which it has a factor."""
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3")
    cases = ((), (False, False)), ((OPTIMIZER,), (True, False)), ((OPTIMIZER, PARAMETERS), (True, True))
    for words, offloads in cases:
        plan = planned(f"cluster.gpus={gpus}", *words)
        n = plan.total_parameters
        host, gpu, largest = stage3.estimate_zero3_model_states_mem_needs(
            n, 0, gpus, 1, *offloads, additional_buffer_factor=1
        )
        assert largest == 0
        assert states(plan) == pytest.approx(gpu, rel=1e-6, abs=8)
        if any(offloads):
            assert cost(plan).host.states - 4 * n == pytest.approx(host)


def test_zero_2_agrees_with_deepspeeds_estimator() -> None:
    """It leaves out the fp32 sums on the GPU and the new weights' copy on the host."""
    stage2 = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    plan = planned(ONE, "parallelism.zero=2", OPTIMIZER)
    n = plan.total_parameters
    host, gpu = stage2.estimate_zero2_model_states_mem_needs(n, 1, 1, cpu_offload=True, additional_buffer_factor=1)
    assert states(plan) - 4 * n == pytest.approx(gpu)
    assert cost(plan).host.states - 2 * n == pytest.approx(host)


SIZES: dict[str, tuple[int, dict[str, Any], str]] = {
    "zero 2, sums in fp32": (2, {}, "fp32"),
    "zero 2, sums in bf16": (2, {}, "bf16"),
    "zero 3, sums in fp32": (3, {}, "fp32"),
    "zero 3, sums in bf16": (3, {}, "bf16"),
    "zero 3, parameters too": (3, {"offload_param": {"device": "cpu"}}, "fp32"),
}


@pytest.mark.parametrize("case", SIZES)
def test_the_host_holds_what_an_engine_keeps_after_a_step(case: str) -> None:
    """Two micro-batches and a step of a real engine; every tensor of its states is weighed."""
    pytest.importorskip("deepspeed")
    zero, section, sums = SIZES[case]
    (found,) = fork_map(_weighed, [(zero, section, sums)])
    assert not isinstance(found, Crash), found
    bytes_kept, parameters = found
    device = Offload(device="cpu")
    options = DeepSpeedOptions(offload_optimizer=device, offload_param=device if section else Offload())
    training = Training(sequence=1, grad_reduce=sums)  # type: ignore[arg-type]
    assert bytes_kept == pytest.approx(kept(options, training, zero, 2, parameters).host * parameters, rel=0.02)


def _weighed(case: tuple[int, dict[str, Any], str]) -> tuple[int, int]:
    """(bytes that the optimizer keeps on the host, parameters)."""
    import os

    import deepspeed
    import torch

    from meshwright.train.deepspeed_patches import without_compiler

    zero, section, sums = case
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    without_compiler()
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256, bias=False) for _ in range(4)))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": sums},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {
            "stage": zero,
            "offload_optimizer": {"device": "cpu"},
            **section,
            **({"stage3_param_persistence_threshold": 0} if zero == 3 else {}),
        },
    }
    engine = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]
    for _ in range(2):
        engine.backward(engine(torch.randn(1, 256, dtype=torch.bfloat16)).float().pow(2).mean())
        engine.step()
    return sum(_sizes(engine.optimizer, zero, bool(section))), 4 * 256 * 256


def _sizes(optimizer: Any, zero: int, weights: bool) -> list[int]:
    masters = optimizer.fp32_partitioned_groups_flat if zero == 3 else optimizer.single_partition_of_fp32_groups
    tensors = [*masters, *(master.grad for master in masters)]
    tensors += [t for state in optimizer.optimizer.state.values() for t in state.values() if getattr(t, "dim", int)()]
    if zero == 3:
        tensors += [optimizer.grad_partitions_flat_buffer]
        tensors += optimizer.param_groups_fp16_flat_cpu_memory if weights else []
    else:
        tensors += optimizer.param_buffer_of_bit16_for_cpu_offload_groups
        tensors += optimizer.accumulated_grads_in_cpu.values()
    return [t.numel() * t.element_size() for t in tensors]


def test_a_part_moves_in_whole_sub_groups() -> None:
    """``int((1 - ratio)*n)`` of n sub-groups stay, and there is one more of parameters that do not decay."""
    half = DeepSpeedOptions(offload_optimizer=Offload(device="cpu", ratio=0.5), sub_group_size=10)
    assert optimizer_part(half, 1000) == 0.5
    assert optimizer_part(replace(half, sub_group_size=500), 1000) == 0.5
    assert optimizer_part(replace(half, sub_group_size=1000), 1000) == 0


def test_half_of_the_optimizer_stays_with_a_ratio_of_a_half() -> None:
    small, ratio = "backend.deepspeed.sub_group_size=10000000", "backend.deepspeed.offload_optimizer.ratio"
    whole, half = (planned(ONE, OPTIMIZER, small, f"{ratio}={part}") for part in (1.0, 0.5))
    n = whole.total_parameters
    assert cost(half).stages[0].optimizer == pytest.approx(0.5 * 12 * n, rel=0.01)
    assert cost(whole).host.states - cost(half).host.states == pytest.approx(0.5 * 16 * n, rel=0.01)
    notes = cost(planned(ONE, OPTIMIZER, f"{ratio}=0.5")).notes
    assert any("whole sub-groups" in note for note in notes)


def test_states_on_nvme_leave_the_host_its_buffers() -> None:
    found = cost(planned(NODE, *NVME)).host
    assert found.nvme == 16 * 8_030_261_248
    sums, sub_groups = 4 * 8_030_261_248, 8 * 4 * 4 * 10**9  # of the node; four buffers a rank
    assert found.states == found.pinned == sums + sub_groups


def test_a_host_that_does_not_hold_the_states_is_refused_with_its_numbers() -> None:
    with pytest.raises(ConfigError) as refused:
        planned("model=llama3_405b", "cluster.gpus=16", OPTIMIZER)
    (problem,) = refused.value.problems
    assert problem.path == "cluster.host_memory_gib"
    assert "must hold 3,804 GiB (3,780 of offloaded states, 24 of ranks)" in problem.message
    assert "dgx_h100 has 2,048" in problem.message
    assert planned("model=llama3_405b", "cluster.gpus=32", "training.global_batch=32", OPTIMIZER)


def test_faster_links_and_hosts_shorten_the_step() -> None:
    words = (ONE, OPTIMIZER)
    slow, link, host, torch_adam = (
        cost(planned(*words, *more)).step.offload
        for more in (
            (),
            ("cluster.host_link_gb_s=225",),
            ("cluster.host_memory_gb_s=2000",),
            ("backend.deepspeed.torch_adam=true",),
        )
    )
    assert link < slow
    assert host < slow < torch_adam


def test_pinned_copies_run_beside_the_backward() -> None:
    pin = "backend.deepspeed.offload_optimizer.pin_memory"
    pinned, pageable = (cost(planned(ONE, OPTIMIZER, f"{pin}={value}")) for value in ("true", "false"))
    assert pinned.host.pinned > pageable.host.pinned == 0
    assert pinned.step.offload < pageable.step.offload


def test_a_cluster_that_says_nothing_of_its_host_is_told_so() -> None:
    words = ("cluster=grand_teton_h100", ONE, OPTIMIZER)
    found = cost(planned(*words))
    assert found.step.offload == 0
    assert sum("not stated" in note for note in found.notes) == 2


def test_the_offloaded_optimizer_gets_its_share_of_the_cores() -> None:
    assert variables(planned(NODE, OPTIMIZER))["OMP_NUM_THREADS"].value == "14"
    assert variables(planned(NODE))["OMP_NUM_THREADS"].value == "1"


def test_what_is_offloaded_fits_a_gigabyte_of_weights_into_no_gpu_memory() -> None:
    found = cost(planned(ONE, OPTIMIZER, PARAMETERS)).stages[0]
    assert found.weights == 0
    assert cost(planned(ONE, OPTIMIZER)).stages[0].weights / GIB == pytest.approx(14.96, abs=0.01)
