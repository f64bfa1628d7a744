"""A sweep: a row a point, a wrong point named while the others go on, one array for SLURM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.cli import main

TINY = ["model=tiny", "cluster=local_cpu", "cluster.gpus=8", "training.sequence=64", "training.steps=4"]
SLURM = ["launch=slurm", "training.logging.save_interval=2", "launch.dry_run=true", "verify=false"]


def test_a_plan_sweep_is_a_table_in_which_a_wrong_point_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "-m", *TINY, "training.micro_batch=1,2", "parallelism.tp=1,16"]
    assert main(words) == 2
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["training.micro_batch", "parallelism.tp", "to", "fit", "memory", "step", "tokens/s", "MFU"]
    good, wrong = ["1", "likely"], [["16", "parallelism:"], ["16", "parallelism.tp:"]]
    assert [row.split()[:3] for row in rows] == [[size, *cells] for size in "12" for cells in (good, *wrong)]
    assert "= 16·1·1 does not divide the world of 8 GPUs" in rows[1]


def test_stages_of_a_point_have_rows_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", "recipe=llama3_405b", "training.seed=1,2"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["training.seed", "stage"]
    assert [row.split()[:2] for row in rows[:2]] == [["1", "ramp_4m"], ["1", "ramp_8m"]]
    assert len(rows) == 2 * 6


def test_as_json_it_is_a_list_with_the_problems_of_a_wrong_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", *TINY, "parallelism.tp=1,16", "output=json"]) == 2
    good, bad = json.loads(capsys.readouterr().out)
    assert good["point"] == {"parallelism.tp": "1"}
    assert good["world"] == 8
    assert bad["point"] == {"parallelism.tp": "16"}
    assert [problem["rule"] for problem in bad["problems"]] == ["grid.world", "tensor.heads"]
    assert "parallelism.tp=8" in bad["problems"][0]["repairs"]


def test_what_is_wrong_with_every_point_is_said_once_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", *TINY, "parallelism.tp=1,16", "training.setps=1"]) == 2
    assert capsys.readouterr().err.splitlines() == ["training.setps: unknown key; did you mean steps?"]


def test_what_is_written_is_written_for_all_points_or_none_and_the_wrong_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "-m", *TINY, "parallelism.tp=1,16", f"runs={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("parallelism.tp=16: parallelism: tp·cp·pp = 16·1·1 does not divide")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_labelled_by_what_was_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "-m", *TINY, "training.seed=1,2", f"runs={tmp_path}", "verify=false"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1:] for line in lines if line.startswith(str(tmp_path))] == [
        ["8 GPUs", "training.seed=1"],
        ["8 GPUs", "training.seed=2"],
    ]
    assert lines[-3].split()[0] == "training.seed"


def test_a_verb_without_a_table_names_each_point_and_outlives_a_wrong_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "-m", "model=tiny", "cluster=local_cpu", "cluster.gpus=2", "training.sequence=64"]
    words += ["training.global_batch=8,-1", "parallelism.cp=1", "parallelism.vpp=1"]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "point training.global_batch=8:\ntiny" in shown.out
    assert "point training.global_batch=-1:\n" in shown.out
    assert "Traceback" not in shown.err
    assert main([*words, "output=json"]) == 2
    good, bad = json.loads(capsys.readouterr().out)
    assert good["best"]
    assert bad["point"] == {"training.global_batch": "-1"}
    assert bad["problems"]


def test_a_dry_run_on_slurm_writes_the_array_that_would_be_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["launch", *TINY, *SLURM, f"runs={tmp_path}", "launch.slurm.throttle=1", "training.seed=1,2", "-m"]
    assert main(words) == 0
    (array,) = tmp_path.glob("sweep-*/array.sbatch")
    assert "#SBATCH --array=0-1%1\n" in array.read_text()
    command, *tasks = capsys.readouterr().out.splitlines()[-3:]
    assert command == f"{array.parent}: sbatch array.sbatch"
    assert [task.split()[0::3] for task in tasks] == [["task", "training.seed=1"], ["task", "training.seed=2"]]
    assert main([*words, "output=json"]) == 0
    launched = json.loads(capsys.readouterr().out)["launched"]
    assert {one["within"] for one in launched} == {str(array.parent)}
    assert [one["point"] for one in launched] == ["training.seed=1", "training.seed=2"]


def test_a_throttle_without_a_sweep_is_said_to_be_idle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", *TINY, *SLURM, f"runs={tmp_path}", "launch.slurm.throttle=2"]
    assert main(words) == 0
    assert "launch.slurm.throttle=2: left out, it limits the jobs of a sweep (-m)" in capsys.readouterr().out


def test_what_is_wrong_is_json_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *TINY, "parallelism.tp=16", "output=json"]) == 2
    shown = capsys.readouterr()
    assert [problem["path"] for problem in json.loads(shown.out)["problems"]] == ["parallelism", "parallelism.tp"]
    assert shown.err == ""


def test_a_search_without_an_answer_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "model=tiny", "cluster=local_cpu", "cluster.gpus=2", "training.sequence=64"]
    assert main([*words, "training.global_batch=8", "parallelism.tp=3", "output=json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["best"] == []
    assert document["problems"][0]["rule"] == "search.rules"
