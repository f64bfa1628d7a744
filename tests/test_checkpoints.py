"""Checkpoints of a long run: how many stay, what they take, how often to save; said, checked, deleted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost.checkpoints import advised_interval, checkpoints
from meshwright.emit.megatron import flags
from meshwright.emit.slurm import script
from meshwright.errors import ConfigError
from meshwright.jobs.launch import links
from meshwright.jobs.transition import chain
from meshwright.layout.plan import Plan
from meshwright.model.optimizer_state import checkpoint_gib
from meshwright.resolver import refusals, resolve
from meshwright.spec import Launch, Logging, Spec
from meshwright.train.health import missing
from meshwright.train.retention import prune, surplus


def run(steps: int = 100, zero: int = 1, **logging: Any) -> Spec:
    base = spec(small_model(), 16, global_batch=16, zero=zero)
    return replace(base, training=replace(base.training, steps=steps, logging=Logging(**logging)))


def kept(**logging: Any) -> int | None:
    found = checkpoints(resolve(run(**logging)))
    return None if found is None else found.kept


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "gone"),
    [(1, None, [10, 20, 30, 40]), (2, None, [10, 20, 30]), (2, 20, [10, 30]), (9, None, [])],
)
def test_what_goes(keep_last: int, keep_every: int | None, gone: list[int]) -> None:
    assert surplus([10, 30, 20, 50, 40], keep_last, keep_every) == gone


@pytest.mark.parametrize("name", ["iter_{:07}", "step{}"])
def test_a_checkpoint_that_is_being_written_is_left_alone(name: str, tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        (tmp_path / name.format(step)).mkdir()
    (tmp_path / "going_step5").mkdir()  # a deletion that was cut off
    (tmp_path / "latest").write_text("step30")
    going = prune(tmp_path, {"keep_last": 1, "keep_every": None})
    assert going is not None
    going.join()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {name.format(30), name.format(40), "latest"}
    assert prune(tmp_path, {"keep_last": None, "keep_every": None}) is None


def test_how_many_are_kept() -> None:
    assert kept() == 1
    assert kept(save_interval=30) == 4  # 30, 60, 90, 100
    assert kept(save_interval=30, save_at_end=False) == 3
    assert kept(save_interval=10, keep_last=2) == 2
    assert kept(save_interval=10, keep_last=2, keep_every=40) == 4  # 40, 80, 90, 100
    assert kept(checkpoints=False) is None


def test_health_asks_for_room_for_what_retention_leaves_and_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=25 * 2**30))
    assert list(missing(0, 10.0, 1, tmp_path)) == []
    assert list(missing(0, 10.0, 3, tmp_path)) == [f"25.0 GiB free for checkpoints in {tmp_path}, 30.0 needed"]
    (tmp_path / "iter_0000010").mkdir()
    assert list(missing(0, 10.0, 3, tmp_path)) == []


def test_the_job_tells_health_how_many_lie_there_at_once() -> None:
    told = replace(run(save_interval=10, keep_last=2), launch=Launch(kind="slurm"))
    assert f'health.py" 8 {checkpoint_gib(resolve(told)):.1f} 3 "$checkpoints"' in script(resolve(told))


def priced(**cluster: Any) -> Plan:
    base = run()
    return resolve(replace(base, cluster=replace(base.cluster, **cluster)))


def test_young_and_dalys_interval() -> None:
    """Two nodes of 1,000 hours: one failure in 500; a save of 10 s: sqrt(2·10·1,800,000) - 10 s."""
    rate = checkpoint_gib(priced()) * 2**30 / 10 / 1e9
    plan = priced(node_mtbf_hours=1000, storage_gb_s=rate)
    assert advised_interval(plan, step_time=1.0) == round((2 * 10 * 1_800_000) ** 0.5 - 10)
    assert advised_interval(priced(node_mtbf_hours=1000), 1.0) is None


def test_a_save_that_hides_is_megatrons() -> None:
    assert "--async-save" in flags(resolve(run(async_save=True)))
    assert "--async-save" not in flags(resolve(run()))
    assert [problem.rule for problem in refusals(run(async_save=True), "deepspeed")] == ["deepspeed.async_save"]
    torch = run(async_save=True)
    torch = replace(
        torch,
        backend=replace(torch.backend, megatron=replace(torch.backend.megatron, checkpoint_format="torch")),
    )
    assert [problem.rule for problem in refusals(torch, "megatron")] == ["megatron.async_save"]
    assert "--async-save" in flags(resolve(run(async_save=True, zero=3)))  # Megatron-FSDP's own format is, too


def test_multiples_are_kept_of_what_would_go() -> None:
    (problem,) = refusals(run(keep_every=10), "megatron")
    assert "without keep_last nothing is deleted; set training.logging.keep_last=2" in str(problem)


def test_a_stage_that_another_follows_saves_its_end() -> None:
    stages = [replace(run(save_at_end=name != "a"), stage=name) for name in ("a", "b")]
    with pytest.raises(ValueError, match="save_at_end: false, and stage b starts from the end of stage a; set it true"):
        chain([resolve(stage) for stage in stages])


def launched(folder: Path, free_gib: float, monkeypatch: pytest.MonkeyPatch, **launch: Any) -> tuple[str, ...]:
    """What launching a run of five checkpoints says where ``free_gib`` are free; refused or not."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_gib * 2**30))
    asked = run(save_interval=20, save=str(folder / "saved"))
    try:
        return links([replace(asked, launch=Launch(kind="slurm", **launch))], folder).left_out
    except ConfigError as error:
        return tuple(map(str, error.problems))


def test_a_launch_asks_for_room_for_a_checkpoint_and_warns_where_not_all_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = checkpoint_gib(resolve(run()))
    (refused,) = launched(tmp_path, 0.9 * each, monkeypatch)
    assert refused.startswith("training.logging.save: a checkpoint takes 0.0 GiB, and 0.0 are free in")
    assert launched(tmp_path, 0.9 * each, monkeypatch, force=True) == ()
    assert launched(tmp_path, 5 * each, monkeypatch) == ()
    (warned,) = launched(tmp_path, 4.9 * each, monkeypatch)
    assert "what the run keeps takes" in warned
    for step in (20, 40):
        (tmp_path / "saved" / f"iter_{step:07}").mkdir(parents=True)
    assert launched(tmp_path, 3 * each, monkeypatch) == ()


def test_another_machines_disk_is_not_held_against_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unchecked,) = launched(tmp_path, 0, monkeypatch, dry_run=True)
    assert unchecked.endswith("so it is not checked here; the job looks on its nodes")
    assert launched(tmp_path / "not" / "here", 0, monkeypatch) == ()
