"""The models of docs/rehearsals.md train in miniature with one process's losses, as the page says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.documents import PROOFS, REHEARSALS
from meshwright.rehearse.run import TOLERANCE
from samples import sample

pytest.importorskip("megatron.core")
pytest.importorskip("deepspeed")

ROOT = Path(__file__).parents[1]
ROWS: dict[str, dict[str, Any]] = json.loads((ROOT / "docs" / REHEARSALS).read_text("utf-8"))
QUICK_STEPS = 8
# nats: what norms whose gradients no rank sums are off by after twelve steps, the smallest fault that was seen
SMALLEST_FAULT = 7e-5


def benchmark() -> Any:
    path = ROOT / "benchmarks" / "rehearsals.py"
    described = importlib.util.spec_from_file_location("rehearsals", path)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


@pytest.mark.slow(reason="each trains up to three times four processes; the next test takes one of them")
@pytest.mark.parametrize("name", ROWS)
def test_they_train_as_the_page_says(name: str, tmp_path: Path) -> None:
    module = benchmark()
    found = module.found(module.rehearsed(name, ROWS[name], tmp_path))
    assert found["problems"] == []
    assert found["differences"].keys() == ROWS[name]["differences"].keys()


@pytest.mark.parametrize("name", sample(ROWS, 1))
def test_one_of_them_trains_for_a_few_steps(name: str, tmp_path: Path) -> None:
    assert benchmark().rehearsed(name, {**ROWS[name], "ranks": 2}, tmp_path, steps=QUICK_STEPS).problems == ()


def test_every_row_was_rehearsed_and_passed() -> None:
    assert [name for name, row in ROWS.items() if row["problems"]] == []
    assert all(max(row["differences"].values()) <= TOLERANCE for row in ROWS.values())
    assert {name for name, row in ROWS.items() if row["backend"] == "megatron"} >= {"gpt_oss_20b", "olmo3_7b"}


def test_the_tolerance_lies_between_what_recipes_differed_by_and_the_smallest_fault() -> None:
    """The page of each recipe says what its miniature differed by; other machines round it up to a fifth more."""
    proven = json.loads((ROOT / "docs" / PROOFS).read_text("utf-8"))["recipes"]
    found = [max(one["rehearsal"]["differences"].values()) for one in proven.values() if "rehearsal" in one]
    assert len(found) > 200
    assert 1.2 * max(found) < TOLERANCE < SMALLEST_FAULT / 3
