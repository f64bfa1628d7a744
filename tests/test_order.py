"""Long tests come first, each once, and a worker has those of one backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from order import LONG, dealt

SHORT = [f"tests/test_short.py::test_{i}" for i in range(20)]
NAMES = [*SHORT, "tests/slurm/test_training.py::test_a", "tests/test_train_deepspeed.py::test_b", *SHORT]


@pytest.mark.parametrize("workers", [1, 2, 3, 50])
def test_every_test_stands_in_it_once(workers: int) -> None:
    assert sorted(dealt(NAMES, workers)) == list(range(len(NAMES)))


def test_each_of_two_parts_begins_with_its_long_tests() -> None:
    order = [NAMES[i] for i in dealt(NAMES, 2)]
    assert ["slurm" in order[0], "deepspeed" in order[len(order) // 2]] == [True, True]


def test_what_is_said_to_be_long_is_there() -> None:
    tests = {str(path.relative_to(Path(__file__).parent)) for path in Path(__file__).parent.rglob("test_*.py")}
    assert [name for row in LONG for name in row if not any(test.startswith(name) for test in tests)] == []
