"""Techniques of DeepSpeed, really run on a CPU: each gives the losses of a plain run, or of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from test_train_deepspeed import DENSE, prepared, trained

TILES = {"backend.deepspeed.tiling.loss": 4, "backend.deepspeed.tiling.mlp": 3}
MUON = {"training.optimizer.name": "muon", "training.optimizer.lr": 2e-3}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return trained(prepared(tmp_path_factory.mktemp("plain") / "run", 1, DENSE, {"training.steps": 12}, zero=1), 1)


@pytest.mark.parametrize("degrees", [{"zero": 1}, {"zero": 3}, {"cp": 2, "zero": 3}, {"cp": 2, "zero": 1}], ids=str)
def test_tiles_change_no_loss(degrees: dict[str, Any], plain: list[float], tmp_path: Path) -> None:
    found = trained(prepared(tmp_path / "run", 2, DENSE, {"training.steps": 12, **TILES}, **degrees), 2)
    assert found == pytest.approx(plain, abs=1e-4)
