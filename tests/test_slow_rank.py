"""Which rank is slow: compared with its peers of the same pipeline stage, and told to people."""

from __future__ import annotations

import pytest

from meshwright.jobs.losses import slow_ranks
from meshwright.train.slow_rank import Slow, slowest


@pytest.mark.parametrize(
    ("seconds", "stages", "found"),
    [
        ([1.0, 1.0, 1.0, 1.7], [0, 0, 0, 0], Slow(3, 1.7)),
        ([1.0, 2.0], [0, 0], Slow(1, 2.0)),
        ([1.0, 1.0, 1.0, 1.4], [0, 0, 0, 0], None),
        ([1.0, 3.0, 1.0, 3.0], [0, 1, 0, 1], None),  # stages differ in what they hold
        ([1.0, 3.0, 1.0, 9.0], [0, 1, 0, 1], Slow(3, 3.0)),
        ([2.0, 1.0, 1.0, 3.0], [0, 0, 0, 0], Slow(3, 3.0)),  # the slowest of two
        ([5.0], [0], None),
        ([0.0, 1.0], [0, 0], None),
    ],
)
def test_it_is_far_above_its_peers(seconds: list[float], stages: list[int], found: Slow | None) -> None:
    assert slowest(seconds, stages, 1.5) == found


def test_people_are_told_of_the_one_that_is_named_most_often() -> None:
    steps = [{"step": step, "loss": 1.0} for step in range(1, 301)]
    for step, rank, times in ((40, 9, 4.0), (200, 3, 2.0), (220, 3, 2.2), (240, 5, 1.6)):
        steps[step - 1] |= {"slow_rank": rank, "slow_times": times}
    (said,) = slow_ranks(steps)
    assert said.startswith("rank 3 is slow: its forward passes take 2.1 times its peers' (2 times in the last 200")
    assert list(slow_ranks(steps[:30])) == []
