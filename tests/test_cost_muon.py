"""What Muon's orthogonalization costs: FLOPs as torch counts them in DeepSpeed's own functions, on ranks and links."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.cost.estimate import estimate
from meshwright.cost.inputs import Load, Scene, scene
from meshwright.cost.muon import flops, gathered, multiplying
from meshwright.cost.stage_loads import load_of
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import layout, override, resolve
from meshwright.spec import Spec

WORDS = (
    *("model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=64", "training.optimizer.name=muon"),
    *("training.sequence=4096", "training.global_batch=256"),
)
MATRICES = (
    (4096, 4096),
    (1024, 4096),
    (1024, 4096),
    (4096, 4096),
    (4096, 14336),
    (4096, 14336),
    (4096, 14336),
)
"""Of a layer of Llama 3 8B in transformers."""


def planned(*words: str) -> Plan:
    return resolve(load([*WORDS, *words]).stages[0])


def looked_at(plan: Plan) -> tuple[Scene, Load]:
    seen = scene(layout(plan.spec))
    return seen, load_of(seen, 0, plan.stages[0].chunks)


@pytest.mark.parametrize(("n", "m"), [(24, 24), (24, 64)])
@pytest.mark.parametrize("gram", [False, True])
def test_flops_are_those_of_deepspeeds_functions(n: int, m: int, gram: bool) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.muon import original_muon
    from torch.utils.flop_counter import FlopCounterMode

    counted = FlopCounterMode(display=False)
    iterate = original_muon.zeropower_via_gram_newtonschulz if gram else original_muon.zeropower_via_newtonschulz5
    with torch.compiler.set_stance("force_eager"), counted:
        iterate(torch.randn(n, m), steps=5)
    assert counted.get_total_flops() == flops(n, m, gram)


def test_megatrons_iteration_squares_and_multiplies_whole_matrices() -> None:
    assert flops(1024, 4096, gram=False) == 5 * (4 * 1024**2 * 4096 + 2 * 1024**3)
    assert flops(1024, 4096, gram=True) < 0.7 * flops(1024, 4096, gram=False)


def seconds(shapes: tuple[tuple[int, int], ...], gram: bool, plan: Plan) -> float:
    """Of all of them in their products alone."""
    gpu, e = plan.spec.cluster.accelerator, plan.spec.cluster.efficiency
    return float(sum(flops(*shape, gram) for shape in shapes)) / (gpu.bf16_tflops * 1e12 * e.matmul)


def test_stage_3_deals_matrices_out_and_gathers_them_four_times() -> None:
    plan = planned("backend=deepspeed", "parallelism=zero3")
    seen, here = looked_at(plan)
    elements = 32 * sum(n * m for n, m in MATRICES)
    assert gathered(seen, here) == (4 * 4 * elements, 0)
    buckets = -(-elements // 500_000_000)
    assert multiplying(seen, here) == pytest.approx(buckets * seconds(((4096, 14336),), True, plan), rel=0.25)


def test_below_a_rank_repeats_what_others_began_and_gathers_nothing() -> None:
    plan = planned("backend=deepspeed", "parallelism=zero2")
    seen, here = looked_at(plan)
    even, one = 32 * seconds(MATRICES, True, plan) / 64, seconds(((4096, 14336),), True, plan)
    assert multiplying(seen, here) == pytest.approx(even + one, rel=0.25)
    assert gathered(seen, here) == (0, 0)


def test_megatrons_ranks_orthogonalize_parts_and_share_them_at_zero_1() -> None:
    words = ("backend=megatron", "parallelism=tp", "parallelism.tp=4", "parallelism.sp=true")
    alone, shared = (planned(*words, f"parallelism.zero={zero}") for zero in (0, 1))
    parts = ((1024, 4096), (256, 4096), (256, 4096), (1024, 4096), (4096, 7168), (3584, 4096))
    seen, here = looked_at(alone)
    whole = float(multiplying(seen, here))
    assert whole == pytest.approx(32 * seconds(parts, False, alone), rel=0.3)
    assert float(multiplying(*looked_at(shared))) == pytest.approx(whole / 16)


def test_a_gate_and_what_it_gates_are_one_matrix_to_megatron_alone() -> None:
    """One process: (2·ffn, h) by Megatron's iteration against twice (ffn, h) by DeepSpeed's."""
    fused = ((4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (4096, 28672), (4096, 14336))
    for name, shapes, gram in (("deepspeed", MATRICES, True), ("megatron", fused, False)):
        one = resolve(override(planned(f"backend={name}", "parallelism=zero1").spec, "parallelism.zero", 0), "megatron")
        plan = resolve(override(one.spec, "backend.name", name), "megatron")
        assert multiplying(*looked_at(plan)) == pytest.approx(32 * seconds(shapes, gram, plan), rel=0.25)


def adam(plan: Plan) -> Plan:
    return resolve(override(plan.spec, "training.optimizer.name", "adamw"))


def test_stage_3_reduces_whole_gradients() -> None:
    """DeepSpeed refuses Muon with reduce_scatter: an all-reduce sends twice as much; four gathers come on top."""
    muon = planned("backend=deepspeed", "parallelism=zero3")
    sent, plain = (cost(one).traffic.data.size for one in (muon, adam(muon)))
    once = 4 * 63 / 64 * muon.total_parameters
    elements = 32 * sum(n * m for n, m in MATRICES)
    assert sent - plain == pytest.approx(muon.batch.microbatches * once + 4 * 4 * 63 / 64 * elements, rel=0.001)


def test_the_plan_says_what_it_takes() -> None:
    plan = planned("backend=deepspeed", "parallelism=zero3")
    (note,) = (note for note in cost(plan).notes if "Muon" in note)
    assert "gathering for it" in note
    assert "%" in note
    assert not any("Muon" in note for note in cost(adam(plan)).notes)


def small(**changes: Any) -> Spec:
    one = override(spec(small_model(), 8, global_batch=16, zero=1), "training.optimizer.name", "muon")
    for path, value in changes.items():
        one = override(one, path.replace("__", "."), value)
    return one


def test_arrays_of_layouts_agree_with_one() -> None:
    import numpy as np

    one = layout(resolve(small()).spec)
    both = replace(one, tp=np.array([1, 1]), dp=np.array([8, 8]))
    assert np.allclose(estimate(both).step_time, float(estimate(one).step_time))
