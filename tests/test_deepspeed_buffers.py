"""Bytes of an engine of DeepSpeed's on a CPU, of every stage and type, against what is counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost.buckets import buckets, reducing
from meshwright.cost.inputs import Scene, scene
from meshwright.model.offload import kept
from meshwright.resolver import layout, normalise
from meshwright.spec import Backend, DeepSpeedOptions, Training
from meshwright.verify.pool import Crash, fork_map

BUCKET, WIDTH, LAYERS = 10_000, 64, 4
PARAMETERS = LAYERS * WIDTH * WIDTH
CASES = [  # stage, precision, sums, reductions overlap
    (1, "bf16", "bf16", True),
    (1, "bf16", "bf16", False),
    (1, "fp32", "fp32", True),
    (2, "bf16", "bf16", True),
    (2, "bf16", "fp32", True),
    (2, "bf16", "fp32", False),
    (2, "fp32", "fp32", True),
    (3, "bf16", "bf16", True),
    (3, "bf16", "fp32", True),
    (3, "fp32", "fp32", False),
]
Case = tuple[int, str, str, bool]


def named(case: Case) -> str:
    zero, precision, sums, overlaps = case
    return f"zero {zero}, {precision}, sums in {sums}{', beside' if overlaps else ''}"


def counted(case: Case) -> Scene:
    zero, precision, sums, overlaps = case
    one = spec(small_model(), 8, 64, 8, zero=zero, overlap_grad_reduce=overlaps)
    training = replace(one.training, precision=precision, grad_reduce=sums)  # type: ignore[arg-type]
    options = DeepSpeedOptions(reduce_bucket=BUCKET)
    backend: Backend = replace(one.backend, name="deepspeed", deepspeed=options)
    return scene(layout(normalise(replace(one, training=training, backend=backend))))


LOW = [(2, "bf16", "low", True), (3, "bf16", "low", True)]  # masters, moments and sums in bf16
Found = tuple[int, dict[str, int]]


@pytest.fixture(scope="module")
def found() -> dict[Case, Found]:
    """(bytes of buffers while the backward runs, those of states) of real engines, made in one process."""
    pytest.importorskip("deepspeed")
    (weighed,) = fork_map(_all_weighed, [(*CASES, *LOW)])
    assert not isinstance(weighed, Crash), weighed
    return dict(zip((*CASES, *LOW), weighed, strict=True))


@pytest.mark.parametrize("case", CASES, ids=named)
def test_an_engine_holds_the_buffers_that_are_counted(case: Case, found: dict[Case, Found]) -> None:
    """While its backward runs; joined tensors are sent in the type that sums have."""
    assert found[case][0] == buckets(counted(case))
    assert reducing(counted(case)) == BUCKET * (4 if case[2] == "fp32" else 2)


@pytest.mark.parametrize("case", [*CASES, *LOW], ids=named)
def test_an_engine_keeps_the_states_that_are_counted(case: Case, found: dict[Case, Found]) -> None:
    """Weights, sums of gradients, masters and moments after a step of two micro-batches and one more backward."""
    zero, precision, sums, _ = case
    low = sums == "low"
    training = Training(sequence=1, precision=precision, grad_reduce="bf16" if low else sums)  # type: ignore[arg-type]
    ours = kept(DeepSpeedOptions(bf16_states=low), training, zero, 2, PARAMETERS)
    expected = {"weight": ours.weight, "gradient": ours.gradient, "optimizer": ours.optimizer}
    assert {name: size / PARAMETERS for name, size in found[case][1].items()} == expected


def _all_weighed(cases: tuple[Case, ...]) -> list[Found]:
    import deepspeed.comm

    weighed = [_weighed(case) for case in cases]
    assert deepspeed.comm.has_all_gather_into_tensor()  # so that new weights are gathered where they are
    return weighed


def _weighed(case: Case) -> Found:
    import torch

    engine = _engine(case)
    optimizer, seen = engine.optimizer, [0]
    kind = torch.float32 if case[1] == "fp32" else torch.bfloat16

    def look(*_: Any) -> None:
        seen.append(sum(map(_bytes, _buffers(optimizer, case[0]))))

    engine.module[0].weight.register_hook(look)
    for step in range(3):
        engine.backward(engine(torch.randn(1, WIDTH, dtype=kind)).float().pow(2).mean())
        if step < 2:
            engine.step()
    return max(seen), _states(engine, case[0])


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _buffers(optimizer: Any, zero: int) -> list[Any]:
    held = [bucket.buffer for bucket in optimizer.ipg_buckets.values()]
    return held if zero == 3 else [buffer for buffers in held for buffer in buffers]


def _states(engine: Any, zero: int) -> dict[str, int]:
    import torch

    optimizer = engine.optimizer
    weights = [p.ds_tensor if zero == 3 else p for p in engine.module.parameters()]
    masters = optimizer.fp32_partitioned_groups_flat if zero == 3 else optimizer.single_partition_of_fp32_groups
    storages = {w.untyped_storage().data_ptr() for w in weights}
    own = [m for m in masters if m.untyped_storage().data_ptr() not in storages]
    moments = [
        t for state in optimizer.optimizer.state.values() for t in state.values() if torch.is_tensor(t) and t.dim()
    ]
    return {
        "weight": sum(map(_bytes, weights)),
        "gradient": sum(map(_bytes, _gradients(engine, zero))),
        "optimizer": sum(map(_bytes, [*own, *moments])),
    }


def _gradients(engine: Any, zero: int) -> list[Any]:
    optimizer = engine.optimizer
    if zero == 3:
        return [optimizer.grad_partitions_flat_buffer]
    groups = [*optimizer.averaged_gradients.values(), *optimizer.all_grad_tensors.values()]
    parts = [part for group in groups for part in group or []]
    whole = [getattr(p, "grad_accum", None) for p in engine.module.parameters()]
    whole += [p.grad for p in engine.module.parameters()]
    return parts if zero == 2 else [g for g in whole if g is not None]


def _engine(case: Case) -> Any:
    import os

    import deepspeed
    import torch

    from meshwright.train.deepspeed_patches import without_compiler

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    without_compiler()
    zero, precision, sums, overlaps = case
    low, sums = sums == "low", "bf16" if sums == "low" else sums
    states = dict.fromkeys(("bf16_master_weights_and_grads", "bf16_optimizer_states"), True) if low else {}
    mixed = {"bf16": {"enabled": True, **states}, "data_types": {"grad_accum_dtype": sums}}
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "communication_data_type": sums,
        **({} if precision == "fp32" else mixed),
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {"stage": zero, "reduce_bucket_size": BUCKET, "overlap_comm": overlaps},
    }
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]
