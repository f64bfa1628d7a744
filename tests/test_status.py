"""``meshwright status``: what it says of whole and of damaged run folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders import small_model, spec
from meshwright.cli import main
from meshwright.jobs.run_folder import compile
from meshwright.jobs.status import status
from meshwright.resolver import resolve
from meshwright.train import metrics

DAMAGES = {
    "empty": b"",
    "truncated": b'{"name": "a", "st',
    "binary": b"\xff\xfe\x00\x9c",
    "a key": b'{"version": 0}',
    "list": b"[]",
}


def runs(tmp_path: Path) -> Path:
    for name in ("bad", "good"):
        compile(resolve(replace(spec(small_model(), 8, global_batch=16), name=name)), tmp_path / name, verify=False)
    return tmp_path / "bad"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["plan.json", "config.yaml", "after.json"])
def test_a_damaged_file_is_named_and_the_other_runs_are_shown(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs(tmp_path) / file).write_bytes(DAMAGES[damage])
    assert main(["status", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert f"cannot read {file}: " in shown.out
    assert "good: not running" in shown.out
    assert "bad: not running" in shown.out
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("damage", [*DAMAGES, "folder"])
@pytest.mark.parametrize("file", ["metrics.jsonl", "JOB", "DONE", "RESTARTS", "verdicts.json", "checkpoints/latest"])
def test_no_damage_ends_in_a_traceback(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs(tmp_path) / file
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if damage == "folder" else path.write_bytes(DAMAGES[damage])
    main(["status", str(tmp_path), "output=json"])
    names = [one["name"] for one in json.loads(capsys.readouterr().out)["runs"]]
    assert names == ["bad", "good"]


@pytest.mark.parametrize("line", ['{"step": null}', '{"step": "x"}', '{"step": 4}', '{"step": 4, "loss": "x"}'])
def test_a_line_without_numbers_hides_no_run(line: str, tmp_path: Path) -> None:
    folder = runs(tmp_path)
    (folder / "metrics.jsonl").write_text(f"{line}\n")
    assert (status(folder).loss, status(folder).tokens_per_s) == (None, None)


def test_a_marker_that_names_no_step_is_named(tmp_path: Path) -> None:
    folder = runs(tmp_path)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "latest").write_text("")
    assert status(folder).problems == ("checkpoints/latest: names no step",)


def test_a_circle_of_stages_ends(tmp_path: Path) -> None:
    folder = runs(tmp_path)
    (folder / "after.json").write_text(json.dumps({"checkpoints": "../bad/checkpoints"}))
    assert main(["status", str(tmp_path)]) == 0


def test_the_rate_and_the_time_of_a_step_are_of_the_same_steps(tmp_path: Path) -> None:
    """512 tokens a step; the first one takes 10 s, the others 0.2 and 0.3 s by turns."""
    folder = runs(tmp_path)
    for step in range(1, 13):
        seconds = 10.0 if step == 1 else 0.2 if step % 2 else 0.3
        metrics.write(folder / "metrics.jsonl", step=step, loss=2.0, step_time_s=seconds, tokens_per_s=512 / seconds)
    found = status(folder)
    assert found.step_time_s == pytest.approx(0.25)
    assert found.tokens_per_s == pytest.approx(512 / 0.25)
