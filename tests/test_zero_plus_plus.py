"""DeepSpeed's lower precisions: ZeRO++'s bytes and second copy, states that are all in bf16."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.cost import cost
from meshwright.cost.plan_cost import Cost
from meshwright.loading import load
from meshwright.resolver import resolve

WORDS = (
    "model=llama3_8b",
    "cluster=dgx_h100",
    "cluster.gpus=32",
    "backend=deepspeed",
    "parallelism=zero3",
    "training.sequence=4096",
    "training.global_batch=128",
    "training.grad_reduce=bf16",
)
D = "backend.deepspeed."
HPZ, QWZ, QGZ = f"{D}hpz=8", f"{D}quantized_weights=true", f"{D}quantized_gradients=true"
MICRO_BATCHES, SHARE = 4, 31 / 32


def costed(*words: str, slow: bool = False) -> Cost:
    spec = load([*WORDS, *words]).stages[0]
    inter = replace(spec.cluster.inter, bandwidth_gb_s=5.0) if slow else spec.cluster.inter
    return cost(resolve(replace(spec, cluster=replace(spec.cluster, inter=inter))))


def parameters() -> int:
    return resolve(load(WORDS).stages[0]).stages[0].parameters


@pytest.mark.parametrize(
    ("words", "each"),
    [
        ((), MICRO_BATCHES * (2 + 2 + 2)),
        ((QWZ,), MICRO_BATCHES * (1 + 1 + 2)),
        ((QGZ,), MICRO_BATCHES * (2 + 2 + 0.5)),
        ((HPZ,), 2 + MICRO_BATCHES * 2),
        ((HPZ, QWZ, QGZ), 1 + MICRO_BATCHES * 0.5),
    ],
)
def test_bytes_of_a_parameter_among_all_ranks(words: tuple[str, ...], each: float) -> None:
    flow = costed(*words).traffic.data
    assert flow.size == pytest.approx(each * parameters() * SHARE, rel=1e-3)
    assert flow.link == "between nodes"


def test_the_second_copy_takes_memory_and_is_gathered_within_a_node() -> None:
    plain, second = costed(), costed(HPZ)
    assert second.stages[0].weights - plain.stages[0].weights == pytest.approx(2 * parameters() / 8, rel=1e-3)
    flow = second.traffic.weights
    assert flow.size == pytest.approx((2 * MICRO_BATCHES - 1) * 2 * parameters() * 7 / 8, rel=1e-3)
    assert (flow.link, plain.traffic.weights.size) == ("within nodes", 0)
    away = costed(HPZ, f"{D}offload_param.device=cpu")
    assert away.stages[0].weights < second.stages[0].weights - plain.stages[0].weights


def test_each_part_saves_time_where_links_between_nodes_are_slow() -> None:
    seconds = [costed(*words, slow=True).step.data for words in ((), (QGZ,), (QWZ,), (HPZ,), (HPZ, QWZ, QGZ))]
    plain, *each, together = seconds
    assert max(each) < plain
    assert together < min(each)


def test_what_is_left_out_is_said() -> None:
    assert any("quantize take no time" in note for note in costed(QWZ).notes)
    assert not any("ZeRO++" in note for note in costed(HPZ).notes)


@pytest.mark.parametrize(("zero", "kept", "low"), [(1, 12, 2 + 4), (2, 12, 2 + 4), (3, 12, 2 + 4)])
def test_states_in_bf16_have_no_fp32_copy(zero: int, kept: int, low: int) -> None:
    """A master in bf16 beside the weight, at ZeRO-3 too (deepspeed/runtime/zero/stage3.py:1161)."""
    for option, each in (("false", kept), ("true", low)):
        stage = costed(f"parallelism.zero={zero}", f"{D}bf16_states={option}").stages[0]
        assert stage.optimizer == pytest.approx(each * parameters() / 32, rel=1e-3)
