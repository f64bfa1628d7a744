"""The command line as a user meets it: verbs, exit codes, JSON, Hydra's own flags, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.cli import main

BASE = [
    "model=tiny",
    "cluster=local_cpu",
    "cluster.gpus=8",
    "training.sequence=64",
    "parallelism.tp=2",
    "parallelism.sp=true",
]
ROOT = Path(__file__).parent.parent


def output(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main([*words, "output=json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    document = output(capsys, "plan", *BASE)
    assert document["world"] == 8
    assert document["degrees"] == {"tp": 2, "pp": 1, "vpp": 1, "cp": 1, "ep": 1, "etp": 1, "dp": 4, "edp": 8}
    assert document["batch"]["global"] == 4  # type: ignore[index]
    assert [stage["world"] for stage in document["stages"]] == [8]  # type: ignore[attr-defined]


def test_plan_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *BASE]) == 0
    assert "8 = tp 2 · cp 1 · pp 1 · dp 4" in capsys.readouterr().out


def test_what_is_wrong_goes_to_stderr_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *BASE, "parallelism.pp=3"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "tp·cp·pp = 2·1·3 does not divide the world of 8 GPUs" in shown.err
    assert "Traceback" not in shown.err


def test_a_misspelt_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plam"]) == 2
    assert "plam: no such verb; did you mean plan?" in capsys.readouterr().err


def test_multirun_plans_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", *BASE, "training.micro_batch=1,2", "parallelism.zero=0,1"]) == 0
    assert capsys.readouterr().out.count("world ") == 4


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--help"], ["--info", "defaults"]])
def test_hydras_own_flags_answer(flags: list[str]) -> None:
    command = [sys.executable, "-m", "meshwright.cli", "plan", *flags]
    environment = {"PYTHONPATH": str(ROOT / "launcher"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "parallelism" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"), [("meshwright pl", "plan"), ("meshwright plan model=llama3_4", "model=llama3_405b")]
)
def test_tab_completion_offers_verbs_and_options(typed: str, offered: str) -> None:
    environment = {"PYTHONPATH": str(ROOT / "launcher"), "PATH": "/usr/bin:/bin", "COMP_LINE": typed}
    command = [sys.executable, "-m", "meshwright.cli", "-sc", "query=bash"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert offered in done.stdout.split()


def test_plan_imports_nothing_heavy() -> None:
    words = ["plan", "recipe=llama3_405b"]
    run = f"import sys; from meshwright.cli import main; assert main({words!r}) == 0"
    code = f"{run}; print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT / "launcher"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    heavy = {"torch", "deepspeed", "megatron", "transformers", "numpy", "matplotlib", "pandas"}
    assert heavy.isdisjoint(done.stderr.split())


def test_nothing_is_written_where_the_configuration_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compile", *BASE, 'name="../../escape"']) == 2
    assert main(["compile", *BASE, "parallelism.pp=3"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert "cannot name a folder" in capsys.readouterr().err
