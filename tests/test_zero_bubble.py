"""Schedules that no backend here has: their simulation gives what their papers say."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.cost import cost
from meshwright.cost.pipeline_time import Work
from meshwright.cost.schedule import simulate
from meshwright.cost.zero_bubble import Split, dual_pipe, zb_h1, zb_v
from meshwright.loading import load
from meshwright.resolver import resolve

EVEN = Split(1.0, 1.0, 1.0)


@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 16), (8, 64)])
def test_zb_h1_leaves_a_third_of_the_bubble(p: int, m: int) -> None:
    """Qi et al. 2023, Table 2: (p - 1)*(F + B - W) instead of (p - 1)*(F + B + W)."""
    plain = simulate([[Work(1.0, 2.0)] for _ in range(p)], m, 0.0)
    assert plain == 3 * m + 3 * (p - 1)
    assert zb_h1([EVEN] * p, m) == pytest.approx(3 * m + (p - 1))


@pytest.mark.parametrize(("p", "m"), [(4, 16), (8, 64)])
def test_zb_v_has_next_to_no_bubble(p: int, m: int) -> None:
    """Qi et al. 2024, section 4: none where the three parts are alike; greedily, little."""
    assert 3 * m <= zb_v([EVEN] * p, m) <= 3 * m + (p - 1)


def test_dual_pipe_is_its_papers_formula() -> None:
    """DeepSeek-V3, Table 2: (p/2 - 1)*(F&B + B - 3W)."""
    assert dual_pipe([Split(1.0, 1.2, 0.8)] * 8, 10) == pytest.approx(30 + 3 * (3.0 + 2.0 - 2.4))
    assert dual_pipe([EVEN] * 8, 10, hidden=0.5) == pytest.approx(25 + 3 * (2.5 + 2.0 - 3.0))


def test_the_slowest_stage_decides_a_long_step() -> None:
    stages = [EVEN, Split(2.0, 2.0, 2.0), EVEN, EVEN]
    assert zb_h1(stages, 400) == pytest.approx(zb_h1(stages, 200) + 200 * 6.0)


def test_latency_lengthens_the_way_through_the_pipeline() -> None:
    assert zb_h1([EVEN] * 4, 16, send=0.5) > zb_h1([EVEN] * 4, 16)


@given(
    st.lists(st.builds(Split, *[st.floats(0.1, 3.0)] * 3), min_size=2, max_size=6),
    st.integers(1, 30),
    st.floats(0.0, 0.5),
    st.sampled_from([zb_h1, zb_v]),
)
def test_only_what_cannot_be_short_enough_is_not_walked(
    stages: list[Split], m: int, send: float, of: Callable[..., float]
) -> None:
    seconds = of(stages, m, send)
    assert of(stages, m, send, 1.000001 * seconds) == seconds
    assert of(stages, m, send, 0.1) == inf


def test_a_plan_with_a_bubble_says_what_others_would_take() -> None:
    words = ["model=llama3_70b", "cluster=dgx_h100", "cluster.gpus=64", "training.sequence=8192"]
    words += ["training.global_batch=32", "parallelism.tp=4", "parallelism.sp=true", "parallelism.pp=8"]
    found = cost(resolve(load(words).stages[0]))
    assert found.step.bubble > 0.1 * found.step_time
    (note,) = (note for note in found.notes if "DualPipe" in note)
    assert "no backend here runs it" in note
    assert 12 < float(note.partition("DualPipe would take ")[2].split("bubble of ")[1].split("%")[0]) < 18
    even = cost(resolve(load([*words, "training.global_batch=2048"]).stages[0]))
    assert not [note for note in even.notes if "DualPipe" in note]
