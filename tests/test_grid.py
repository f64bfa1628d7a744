"""Ranks, coordinates and groups are arithmetic; the definitions they must meet are written out here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshwright.layout.grid import Axes, Grid

DEGREES = st.sampled_from([1, 2, 3, 4])


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    tp, cp, pp, dp = (draw(DEGREES) for _ in range(4))
    inner = tp * cp * dp
    etp = draw(st.sampled_from([n for n in range(1, inner + 1) if inner % n == 0]))
    ep = draw(st.sampled_from([n for n in range(1, inner // etp + 1) if inner // etp % n == 0]))
    order = draw(st.sampled_from(["tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"]))
    return Grid(tp, cp, pp, dp, ep, etp, inner // (etp * ep), order, gpus_per_node=4)


@given(grids())
def test_both_numberings_count_the_same_world(grid: Grid) -> None:
    assert grid.dense.world == grid.expert.world == grid.world


@given(grids())
def test_a_rank_is_its_coordinates(grid: Grid) -> None:
    for rank in range(grid.world):
        assert grid.dense.rank(**grid.dense.coordinates(rank)) == rank


@given(grids())
def test_groups_along_an_axis_partition_the_world(grid: Grid) -> None:
    for axis in ("tp", "cp", "dp", "pp"):
        ranks = sorted(rank for group in grid.dense.groups(axis) for rank in group)
        assert ranks == list(range(grid.world))


def test_tensor_parallel_ranks_are_neighbours_and_stages_are_farthest_apart() -> None:
    axes = Axes({"tp": 8, "cp": 1, "dp": 128, "pp": 16})
    assert axes.group(9, "tp") == list(range(8, 16))
    assert axes.group(0, "pp")[:3] == [0, 1024, 2048]
    assert axes.coordinates(16383) == {"tp": 7, "cp": 0, "dp": 127, "pp": 15}


def test_ep_is_no_factor_of_the_dense_world() -> None:
    grid = Grid(tp=1, cp=1, pp=16, dp=128, ep=64, etp=1, edp=2, order="tp-cp-ep-dp-pp", gpus_per_node=8)
    assert grid.world == 2048
    assert grid.nodes == 256
    assert grid.expert.group(0, "ep") == list(range(64))
    assert grid.expert.group(0, "edp") == [0, 64]


def test_how_much_of_a_group_shares_a_node() -> None:
    grid = Grid(tp=4, cp=2, pp=2, dp=4, ep=1, etp=1, edp=32, order="tp-cp-ep-dp-pp", gpus_per_node=8)
    assert grid.ranks_per_node("tp") == 4
    assert grid.ranks_per_node("tp", "cp") == 8
    assert grid.ranks_per_node("dp") == 1
