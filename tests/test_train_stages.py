"""Stages trained for real: each goes on from the last in another layout, with the losses of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builders import small_model, spec
from meshwright.emit.backends import trainer
from meshwright.layout.plan import Plan
from meshwright.rehearse import RankError
from meshwright.rehearse.processes import train
from meshwright.rehearse.run import prepare
from meshwright.resolver import override, resolve
from meshwright.spec import Backend
from meshwright.train.metrics import read
from stages import STEPS, compiled, staged, whole

BATCH = 8


def losses(plans: list[Plan], runs: Path, first: tuple[str, ...] = ()) -> list[float]:
    """Train the stages one after the other; ``first`` are further words for the first one."""
    result = []
    for i, (plan, folder) in enumerate(zip(plans, compiled(plans, runs), strict=True)):
        words = [str(folder), *(first if i == 0 else ())]
        train(trainer(plan.spec.backend.name), plan.grid.world, words, folder / "logs")
        result += [line["loss"] for line in read(folder / "metrics.jsonl")]
    return result


def test_megatron_reshards_between_stages(tmp_path: Path) -> None:
    """DP 2 -> CP 2 -> TP 2: the sharded optimizer goes with the weights."""
    pytest.importorskip("megatron.training")
    original = spec(small_model(), 8, global_batch=BATCH, dp=8, zero=1)
    layouts = [{"dp": 2, "zero": 1}, {"cp": 2, "zero": 1, "dp": 1}, {"tp": 2, "sp": True, "dp": 1, "zero": 1}]
    plans = staged(original, tmp_path / "text", layouts)
    scene = prepare([plan.spec for plan in plans[:1]], tmp_path)
    weights = scene.words[:2]
    expected = losses([whole(plans)], tmp_path / "alone", weights)
    got = losses(plans, tmp_path / "runs", weights)
    assert len(got) == 3 * STEPS
    assert got == pytest.approx(expected, abs=1e-4)
    assert expected[-1] < expected[STEPS] - 0.01 < expected[0]


@pytest.mark.slow(reason="three runs and two conversions; the next test converts one, of ZeRO 3, which has the traps")
@pytest.mark.parametrize("zero", [1, 3])
def test_deepspeed_converts_to_universal_checkpoints(zero: int, tmp_path: Path) -> None:
    """DP 1 -> DP 2 -> DP 1, by way of universal checkpoints."""
    pytest.importorskip("deepspeed")
    original = spec(small_model(), 8, global_batch=BATCH, dp=8, zero=zero)
    original = replace(original, backend=Backend(name="deepspeed"))
    plans = staged(original, tmp_path / "text", [{"dp": dp, "zero": zero} for dp in (1, 2, 1)])
    prepare([plan.spec for plan in plans[:1]], tmp_path)
    expected = losses([whole(plans)], tmp_path / "alone")
    got = losses(plans, tmp_path / "runs")
    assert got == pytest.approx(expected, abs=1e-4)
    assert len(got) == 3 * STEPS


@pytest.mark.parametrize("zero", [pytest.param(1, marks=pytest.mark.slow(reason="the same path at another stage")), 3])
def test_deepspeed_goes_on_from_what_other_ranks_wrote(zero: int, tmp_path: Path) -> None:
    """DP 1 writes; DP 2 starts from its folder, which becomes a universal checkpoint, saves, and resumes its own."""
    pytest.importorskip("deepspeed")
    original = replace(spec(small_model(), 8, global_batch=BATCH, dp=8, zero=zero), backend=Backend(name="deepspeed"))
    plans = staged(original, tmp_path / "text", [{"dp": 1, "zero": zero}, {"dp": 2, "zero": zero}])
    prepare([plan.spec for plan in plans[:1]], tmp_path)
    first = losses(plans[:1], tmp_path / "first")
    (saved,) = (tmp_path / "first").rglob("checkpoints")
    other, same = (override(plan.spec, "training.logging.load", str(saved)) for plan in reversed(plans))
    other = override(other, "backend.deepspeed.checkpoint.load_universal", True)
    got, expected = (losses([resolve(one)], tmp_path / name) for name, one in (("other", other), ("same", same)))
    assert got == pytest.approx(expected, abs=1e-4)
    assert len(got) == STEPS
    assert got[0] < first[0]
    (folder,) = (found.parent for found in (tmp_path / "other").rglob("metrics.jsonl"))
    train(trainer("deepspeed"), 2, [str(folder)], folder / "logs")
    assert [line["loss"] for line in read(folder / "metrics.jsonl")] == got, "its own checkpoint is whole: none is left"


def test_a_stage_does_not_begin_without_the_one_before(tmp_path: Path) -> None:
    pytest.importorskip("megatron.training")
    plans = staged(spec(small_model(), 8, global_batch=BATCH), tmp_path / "text", [{"dp": 1}, {"dp": 1}])
    _, second = compiled(plans, tmp_path / "runs")
    with pytest.raises(RankError, match="the stage before this one has not finished"):
        train(trainer("megatron"), 1, [str(second)], tmp_path / "logs")
