"""The pipeline that is simulated: of any length, and never faster than the bound that searches go by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.cost import cost
from meshwright.cost.pipeline_time import Placed, Work, bound
from meshwright.cost.schedule import Fold, simulate
from test_cost import planned

works = st.builds(Work, st.floats(0.1, 3), st.floats(0.1, 6))


def placed(stages: list[list[Work]]) -> list[Placed]:
    """Every stage, with the first chunks of those before it."""
    totals = [Work(sum(c.forward for c in chunks), sum(c.backward for c in chunks)) for chunks in stages]
    return [Placed(work, sum(s[0].total for s in stages[:i]), i) for i, work in enumerate(totals)]


def least(stages: list[list[Work]], microbatches: int, send: float) -> float:
    everything = sum(chunk.total for chunks in stages for chunk in chunks)
    return float(bound(placed(stages), everything, len(stages), len(stages[0]), microbatches, send))


@given(
    st.lists(st.lists(works, min_size=3, max_size=3), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 5),
    st.floats(0, 0.5),
)
def test_the_bound_never_exceeds_the_simulation(rows: list[list[Work]], vpp: int, groups: int, send: float) -> None:
    """However uneven stages and their chunks are."""
    pp = len(rows)
    vpp = 1 if pp == 1 else vpp
    stages = [row[:vpp] for row in rows]
    microbatches = groups * pp if vpp > 1 else groups
    assert least(stages, microbatches, send) <= simulate(stages, microbatches, send) * (1 + 1e-9)


chunk_works = st.lists(works, min_size=4, max_size=4)


@given(
    st.lists(chunk_works, min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(1, 14),
    st.integers(0, 3),
    st.floats(0, 0.5),
)
def test_skipping_periods_changes_no_simulation(
    rows: list[list[Work]], vpp: int, more: int, groups: int, left: int, send: float
) -> None:
    """However many micro-batches there are, in whatever groups, and with some left over."""
    pp = len(rows)
    vpp, group = (1, 1) if pp == 1 else (vpp, pp + more)
    stages = [row[:vpp] for row in rows]
    microbatches = groups * group + (pp + left if left and pp + left < group else 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshwright.cost.schedule._fold", lambda _: Fold())
        whole = simulate(stages, microbatches, send, group)
    assert simulate(stages, microbatches, send, group) == pytest.approx(whole, rel=1e-9)


def test_a_schedule_of_any_length_is_simulated() -> None:
    """Even stages: (m + (pp - 1)/v) micro-batches, and a thousandth of the operations walked."""
    chunks = [[Work(0.25, 0.5)] * 4] * 8
    assert simulate(chunks, 80_000, 0.0) == pytest.approx((80_000 + 7 / 4) * 3.0)


def test_larger_groups_of_micro_batches_wait_no_less_for_sends() -> None:
    """One last group of 12 on 4 stages, against groups of 4: hand-overs between chunks have time to arrive."""
    chunks = [[Work(0.5, 1.0)] * 2] * 4
    assert simulate(chunks, 24, 0.3, 12) < simulate(chunks, 24, 0.3, 4)


def test_the_group_of_micro_batches_is_that_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int | None] = []

    def recorded(stages: list[list[Work]], microbatches: int, send: float, group: int | None) -> float:
        groups.append(group)
        return simulate(stages, microbatches, send, group)

    monkeypatch.setattr("meshwright.cost.plan_cost._simulated", recorded)
    words = ("parallelism.tp=2", "parallelism.pp=8", "parallelism.vpp=2", "training.micro_batch=1")
    cost(planned(*words, "parallelism.microbatch_group=16"))
    assert groups == [16]


@pytest.mark.parametrize(("pp", "vpp", "microbatches"), [(1, 1, 4), (4, 1, 8), (8, 1, 3), (4, 2, 8), (8, 3, 16)])
def test_the_bound_is_exact_for_even_stages(pp: int, vpp: int, microbatches: int) -> None:
    chunks = [[Work(1.0 / vpp, 2.0 / vpp)] * vpp] * pp
    # Narayanan et al. 2021, section 2.2: (m + (pp - 1)/v) times one micro-batch
    exact = (microbatches + (pp - 1) / vpp) * 3.0
    assert simulate(chunks, microbatches, 0.0) == pytest.approx(exact)
    assert least(chunks, microbatches, 0.0) == pytest.approx(exact)
