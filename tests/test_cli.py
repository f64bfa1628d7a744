"""The command line as a user meets it: verbs, exit codes, JSON, and the folders that it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from meshwright.cli import main

BASE = [
    "model=tiny",
    "cluster=local_cpu",
    "cluster.gpus=8",
    "training.sequence=64",
    "parallelism.tp=2",
    "parallelism.sp=true",
]


def output(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main([*words, "output=json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    document = output(capsys, "plan", *BASE)
    assert document["world"] == 8
    assert document["degrees"] == {"tp": 2, "pp": 1, "vpp": 1, "cp": 1, "ep": 1, "etp": 1, "dp": 4, "edp": 8} | {
        "gtp": 1,
        "egtp": 1,
    }
    assert document["batch"]["global"] == 4  # type: ignore[index]
    assert [stage["world"] for stage in document["stages"]] == [8]  # type: ignore[attr-defined]


def test_plan_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *BASE]) == 0
    assert "8 = tp 2 · cp 1 · pp 1 · dp 4" in capsys.readouterr().out


def test_a_stage_says_what_it_learns_otherwise_and_what_only_runs_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "recipe=llama3_405b"]) == 0
    changes = [line.split() for line in capsys.readouterr().out.splitlines() if "otherwise than gpus_16384" in line]
    (learns, runs) = (" ".join(line) for line in changes)
    assert "learns otherwise than gpus_16384: model.max_positions 8,192 -> 131,072" in learns
    assert "training.global_batch 2,048 -> 128" in learns
    assert runs == "runs otherwise than gpus_16384: parallelism.cp 1 -> 16, parallelism.dp 128 -> 8"


def test_what_is_wrong_goes_to_stderr_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *BASE, "parallelism.pp=3"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "tp·cp·pp = 2·1·3 does not divide the world of 8 GPUs" in shown.err
    assert "Traceback" not in shown.err


def test_a_misspelt_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plam"]) == 2
    assert "plam: no such verb; did you mean plan?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["searhc", "cluster=local_cpu", "--help"], ["searhc: no such verb; did you mean search?"]),
        (["plam", "--cfg", "job"], ["plam: no such verb; did you mean plan?"]),
        (["--info", "defaults", "plam"], ["plam: no such verb; did you mean plan?"]),
        (["plan", "foo", "--cfg", "job"], ["foo: overrides are written key=value, see meshwright --help"]),
        (["plam", "foo", "-h"], ["plam: no such verb; did", "foo: overrides are written key=value"]),
    ],
)
def test_a_word_that_is_no_override_beside_hydras_flags(
    words: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == len(lines)
    assert all(line.startswith(start) for line, start in zip(shown, lines, strict=True))


def test_a_word_like_no_verb_is_told_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["foo", "--cfg", "job"]) == 2
    assert capsys.readouterr().err.startswith("foo: no such verb; the verbs are plan, import, check, compile,")


def test_multirun_plans_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", *BASE, "training.micro_batch=1,2", "parallelism.zero=0,1"]) == 0
    assert capsys.readouterr().out.count("likely") == 4


def test_a_sweep_as_json_is_one_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", *BASE, "parallelism.zero=0,1", "output=json"]) == 0
    documents = json.loads(capsys.readouterr().out)
    assert [document["zero"] for document in documents] == [0, 1]


def test_a_sweep_is_compiled_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compile", "-m", *BASE, "parallelism.pp=1,3", "verify=false"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert main(["compile", "-m", *BASE, "parallelism.pp=1,2", "verify=false", "output=json"]) == 0
    assert [Path(point["folder"]).is_dir() for point in json.loads(capsys.readouterr().out)] == [True, True]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-m", *BASE, "parallelism.tp=glob(*)"], "the sweep has no points"),
        (["-m", *BASE, "parallelism.tp=range(1,2,0)"], "cannot compose: range()"),
        (["--resolve"], "--resolve: belongs to --cfg job"),
        (["model=nope", "--cfg", "job"], "model: no option 'nope'"),
        ([*BASE, "nope=1", "--cfg", "job"], "nope: unknown key"),
        (["recipe=llama3_405b", "stage=long_12k", "--cfg", "job"], "stage: no stage 'long_12k'"),
        ([*BASE, "--config-dir", "/nope"], "--config-dir: /nope does not exist"),
        (
            [*BASE, "--config-name=mine"],
            "--config-name=mine: there is one configuration, and recipes on top of it",
        ),
        (
            [*BASE, "--dry-run"],
            "--dry-run: unknown flag; overrides are written key=value, did you mean launch.",
        ),
        ([*BASE, "--look"], "--look: unknown flag; overrides are written key=value, see meshwright --help"),
        ([*BASE, "launch=slurm", "launch.slurm.time=1day"], "launch.slurm.time: '1day' is not what sbatch reads"),
        ([*BASE, "tp=8"], "tp: unknown key; did you mean parallelism.tp?"),
        ([*BASE, "nodes=2"], "nodes: unknown key; did you mean cluster.nodes or search.nodes?"),
        ([*BASE, "gpus=2"], "gpus: unknown key; did you mean cluster.gpus or launch.slurm.gpus?"),
        ([*BASE, "training.lr=1"], "training.lr: unknown key; did you mean training.optimizer.lr?"),
        ([*BASE, "name=../evil"], "name: '../evil' cannot name a folder; start with a letter or digit"),
        ([*BASE, "cluster.accelerator=H200"], "cluster.accelerator: 'H200' is no description of a GPU; choose a clus"),
        (["recipe=llama3_405b", "model=llama3_8b"], "parallelism.pp: 32 layers and the embedding and the loss do not"),
    ],
)
def test_words_that_make_no_run_are_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(line)
    assert shown.err.count("\n") == 1


def test_the_configuration_of_one_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "recipe=llama3_405b", "stage=long_128k", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["training"]["sequence"], shown["parallelism"]["cp"]) == (131072, 16)


def test_a_sketch_says_so_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "recipe=yi_lightning"]) == 0
    assert capsys.readouterr().out.startswith("sketch: Yi-Lightning, a sketch\n")
    assert main(["plan", "recipe=llama3_405b", "stage=gpus_16384"]) == 0
    assert not capsys.readouterr().out.startswith("sketch")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["status", "/nope"], "/nope is no folder; give a folder that compile or launch wrote"),
        (["validate", "rows=/nope.csv"], "rows: cannot read /nope.csv: No such file or directory"),
        (["doctor", "output=yaml"], "output: expected one of text, json, software, got 'yaml'"),
        (["plan", "model=hf", "model.path=tests"], "model.path: cannot read tests/config.json: No such file"),
    ],
)
def test_other_verbs_say_what_they_cannot_read(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(line)
    assert shown.err.count("\n") == 1


def test_nothing_is_written_where_the_configuration_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compile", *BASE, 'name="../../escape"']) == 2
    assert main(["compile", *BASE, "parallelism.pp=3"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert "cannot name a folder" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["file", "file/x", "/proc/none", "x" * 300], ids=lambda folder: folder[:8])
def test_a_folder_that_cannot_be_written_is_one_line(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["compile", *BASE, "verify=false", f"runs={folder}"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("runs: ")
    assert shown.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_is_no_longer_than_a_folder_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", *BASE, f"name={'a' * 300}"]) == 2
    assert "at most 200 of them" in capsys.readouterr().err


def test_a_folder_lists_what_it_holds(tmp_path: Path) -> None:
    assert main(["compile", *BASE, "verify=false", f"runs={tmp_path}"]) == 0
    (folder,) = tmp_path.iterdir()
    listed = re.findall(r"^- `(.+?)`", (folder / "README.md").read_text(), re.MULTILINE)
    assert listed
    assert [name for name in listed if not (folder / name).exists()] == []


def test_the_folder_of_a_sketch_says_so(tmp_path: Path) -> None:
    assert main(["compile", "recipe=yi_lightning", "stage=pretrain", "verify=false", f"runs={tmp_path}"]) == 0
    (text,) = [path.read_text() for path in tmp_path.rglob("README.md")]
    assert "Yi-Lightning, a sketch: its authors do not publish the model." in text


def test_compile_names_paths_absolutely_as_launch_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compile", *BASE, "verify=false", "training.logging.save=ckpt", "runs=runs"]) == 0
    (config,) = tmp_path.glob("runs/*/config.yaml")
    assert yaml.safe_load(config.read_text())["training"]["logging"]["save"] == str(tmp_path / "ckpt")
