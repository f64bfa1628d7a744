"""Mistakes of a first week: each has its line and its code, and none is met with silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.jobs.run_folder import compile
from meshwright.loading import load
from meshwright.resolver import resolve

TINY = ("model=tiny", "cluster=local_cpu", "cluster.gpus=2", "training.steps=30", "training.global_batch=2")
"""Of 128 tokens a step where the sequence is 64."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs that trained, of which a test damages the second."""
    (spec,) = load([*TINY, "training.sequence=64"]).stages
    compile(resolve(spec), tmp_path / "runs" / "whole", verify=False)
    lines = [{"step": step, "loss": 5.0, "step_time_s": 0.5, "tokens_per_s": 256.0} for step in range(1, 9)]
    (tmp_path / "runs" / "whole" / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    shutil.copytree(tmp_path / "runs" / "whole", tmp_path / "runs" / "damaged")
    return tmp_path / "runs"


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "run.json"])
@pytest.mark.parametrize("damage", [_folder, _bytes])
def test_a_damaged_run_is_skipped_and_named(
    runs: Path, name: str, damage: object, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(runs / "damaged" / name)  # type: ignore[operator]
    assert main(["validate", f"runs=[{runs}]", "output=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "whole" in [row["row_id"] for row in told["rows"]]
    skipped = [] if name == "run.json" and damage is _folder else ["damaged"]  # a folder of that name says nothing
    assert [one["row_id"] for one in told["skipped"]] == skipped


def test_nothing_that_could_be_judged_is_no_success(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "whole" / "metrics.jsonl").unlink()
    assert main(["validate", f"runs=[{runs / 'whole'}]"]) == 1
    assert "skipped 1" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_is_not_none(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "damaged" / "checkpoints").mkdir()
    (runs / "damaged" / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("abc")
    (runs / "damaged" / "plan.json").write_text("{")
    assert main(["status", str(runs / "damaged")]) == 1
    said = capsys.readouterr().out
    assert "latest_checkpointed_iteration.txt: names no step; restore it, or remove it" in said
    assert "checkpoint  not known" in said
    assert "plan.json: is no JSON" in said
    assert said.count("compile it again, or restore it") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["compile", *TINY, "out=x"], "out: compile does not read it; bench and report and status do"),
        (["launch", *TINY, "rehearse.steps=9"], "rehearse.steps: launch does not read it; rehearse does"),
        (["plan", *TINY, "rows=a.csv"], "rows: plan does not read it; validate and calibrate do"),
        (["recipes", "-m", "recipe=olmo_7b,amber_7b", "output=json,text"], "output: one form for all points"),
        (["plan", *TINY, "launch.python="], "launch.python: is empty, and names nothing to run"),
        (["plan", *TINY, "launch.entry='  '"], "launch.entry: is empty, and names nothing to run"),
        (
            ["plan", *TINY, "launch=slurm", "launch.slurm.time=99"],
            "launch.slurm.time: expected text, got 99; quote it, YAML read it as something else "
            "(on the command line '\"99\"')",
        ),
    ],
)
def test_what_would_change_nothing_is_refused(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert line in capsys.readouterr().err


def test_a_line_that_is_no_json_is_named_by_its_place_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nno json\n')
    words = ["data", "data.input=[bad.jsonl]", "data.prefix=x", "training.data.tokenizer.kind=bytes"]
    assert main(words) == 2
    assert "data.input: bad.jsonl, byte 14: no JSON: Expecting value\n" in capsys.readouterr().err


def test_a_wrong_flag_of_a_script_names_its_place_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "ünicode.sh"
    script.write_text("torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers zwölf --hidden-size 64\n")
    assert main(["check", str(script)]) == 2
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "zwölf" in line]
    assert line.count("ünicode.sh:1") == 1
    assert " []" not in said
