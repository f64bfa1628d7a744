"""Techniques of DeepSpeed, really run on a CPU: each gives the losses of a plain run, or of one process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from meshwright.spec import Logging
from meshwright.spec.techniques import AutoTp, DeepSpeedCheckpoint
from test_train_deepspeed import DENSE, prepared, trained

SHORT = {"training.steps": 8}
TILES = {**SHORT, "backend.deepspeed.tiling.loss": 4, "backend.deepspeed.tiling.mlp": 3}
MUON = {**SHORT, "training.optimizer.name": "muon", "training.optimizer.lr": 2e-3}
REASON = "each is two more processes that import transformers and, for Muon, compile its products"


@pytest.fixture(scope="module")
def adamw(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process, as those of the other optimizer below."""
    return trained(prepared(tmp_path_factory.mktemp("alone"), 1, DENSE, SHORT, zero=1), 1)


@pytest.fixture(scope="module")
def muon(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return trained(prepared(tmp_path_factory.mktemp("alone"), 1, DENSE, MUON, zero=1), 1)


def agrees(folder: Path, changes: Mapping[str, Any], degrees: Mapping[str, Any], losses: list[float]) -> bool:
    found = trained(prepared(folder / "run", 2, DENSE, changes, **degrees), 2)
    return found == pytest.approx(losses, abs=1e-5) and found[-1] < found[0] - 0.2


def test_tiles_change_no_loss(adamw: list[float], tmp_path: Path) -> None:
    """ZeRO-3 and Ulysses, which ALST is made for."""
    assert agrees(tmp_path, TILES, {"cp": 2, "zero": 3}, adamw)


@pytest.mark.slow(reason=REASON)
@pytest.mark.parametrize("zero", [1, 3])
def test_tiles_without_ulysses_change_no_loss(zero: int, adamw: list[float], tmp_path: Path) -> None:
    assert agrees(tmp_path, TILES, {"zero": zero}, adamw)


@pytest.mark.slow(reason=REASON)
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_muon_on_two_ranks_is_that_of_one(zero: int, muon: list[float], tmp_path: Path) -> None:
    assert agrees(tmp_path, MUON, {"zero": zero}, muon)


CAST = {**SHORT, "backend.deepspeed.autocast": "bf16"}
CUT = {**SHORT, "backend.deepspeed.autotp": AutoTp(vocabulary=True, overlap=True)}
WRITTEN = {
    "training.steps": 4,
    "training.logging": Logging(save_interval=2, async_save=True),
    "backend.deepspeed.checkpoint": DeepSpeedCheckpoint(writer="python"),
}


def test_logits_cut_by_the_vocabulary_change_no_loss(adamw: list[float], tmp_path: Path) -> None:
    assert agrees(tmp_path, CUT, {"tp": 2, "zero": 1}, adamw)


@pytest.mark.slow(reason=REASON)
@pytest.mark.parametrize("zero", [1, 3])
def test_autocast_keeps_weights_in_32_bits(zero: int, adamw: list[float], tmp_path: Path) -> None:
    found = trained(prepared(tmp_path / "run", 2, DENSE, CAST, zero=zero), 2)
    assert found == pytest.approx(adamw, abs=0.02)
    assert found != pytest.approx(adamw, abs=1e-5)


def test_a_process_of_its_own_writes_what_the_next_run_reads(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run", 2, DENSE, WRITTEN, zero=3)
    first = trained(folder, 2)
    assert sorted(path.name for path in (folder / "checkpoints").glob("step*")) == ["step2", "step4"]
    assert (folder / "checkpoints" / "latest").read_text() == "step4"
    assert "DecoupledCheckpointEngine" in (folder / "logs" / "rank0.log").read_text()
    longer = prepared(tmp_path / "longer", 2, DENSE, {**WRITTEN, "training.steps": 6}, zero=3)
    (folder / "checkpoints").rename(longer / "checkpoints")
    again = trained(longer, 2)
    assert len(again) == 2  # from the fifth step on
    assert again[0] < first[0]
