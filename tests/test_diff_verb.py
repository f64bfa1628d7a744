"""The verb ``diff``: its exit codes, what its operands may be, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cli import main
from meshwright.compare import Comparison, Side, Stage, compare
from meshwright.jobs.run_folder import compile
from meshwright.report.diff import document, markdown
from meshwright.resolver import override, resolve
from meshwright.train import metrics
from test_diff import LLAMA, changed


def run(*words: str) -> int:
    return main(["diff", *words])


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Mapping[str, Any]:
    run(*words, "output=json")
    found: Mapping[str, Any] = json.loads(capsys.readouterr().out)
    return found


WORDS = " ".join(LLAMA)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ("parallelism.dp=16", 0),
        ("name=other", 0),
        ("parallelism.recompute=full", 1),
        ("training.seed=7", 3),
        ("nope=1", 2),
    ],
)
def test_the_exit_code_says_what_differs(more: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(WORDS, f"{WORDS} {more}") == code
    assert "Traceback" not in capsys.readouterr().err


def test_values_of_a_recipe_carry_their_status_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = "recipe=llama3_405b stage=gpus_16384"
    found = as_json(capsys, recipe, f"{recipe} training.optimizer.lr=1e-4")
    (lr,) = [one for one in found["stages"][0]["fields"] if one["path"] == "training.optimizer.lr"]
    assert lr["origin_a"].startswith("published (paper, ")
    assert lr["origin_b"] == "said here"


def test_a_run_folder_equals_the_words_it_was_compiled_from(tmp_path: Path) -> None:
    assert main(["compile", *LLAMA, f"runs={tmp_path}", "verify=false"]) == 0
    (folder,) = tmp_path.iterdir()
    assert run(str(folder), WORDS) == 0
    assert main(["compile", "recipe=llama3_405b", f"runs={tmp_path / 'stages'}", "verify=false"]) == 0
    assert run("recipe=llama3_405b", str(tmp_path / "stages" / "llama3_405b")) == 0


def test_two_run_folders_add_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, loss, seconds in (("a", 2.0, 1.0), ("b", 2.5, 2.0)):
        compile(resolve(changed(f"name={name}")), tmp_path / name, verify=False)
        for step in range(1, 5):
            at = loss if step > 2 else 3.0
            metrics.write(tmp_path / name / "metrics.jsonl", step=step, loss=at, step_time_s=seconds, tokens_per_s=8.0)
    found = as_json(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    rows = {one["name"]: (one["a"], one["b"]) for one in found["stages"][0]["measured"]}
    assert rows["step_time_s"] == (1.0, 2.0)
    assert rows["loss of step 3 (first unequal)"] == (2.0, 2.5)
    assert found["differences"] == {"learned": 0, "runs": 0, "described": 1}


def test_a_file_of_another_program_is_an_operand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tree_sitter_bash")
    flags = "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32 "
    flags += "--micro-batch-size 1 --global-batch-size 8 --vocab-size 100 --train-iters 20 --lr 1e-3 --bf16"
    for name, lr in (("a.sh", "1e-3"), ("b.sh", "2e-3")):
        (tmp_path / name).write_text(f"torchrun --nproc_per_node 8 pretrain_gpt.py {flags.replace('1e-3', lr)}\n")
    assert run(str(tmp_path / "a.sh"), str(tmp_path / "a.sh")) == 0
    capsys.readouterr()
    found = as_json(capsys, str(tmp_path / "a.sh"), str(tmp_path / "b.sh"))
    changed = {one["path"]: one for one in found["stages"][0]["fields"]}
    assert (changed["training.optimizer.lr"]["a"], changed["training.optimizer.lr"]["b"]) == (1e-3, 2e-3)
    assert changed["training.optimizer.lr"]["origin_b"] == f"{tmp_path / 'b.sh'}:1"


def test_markdown_is_one_table_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    run(WORDS, f"{WORDS} training.seed=7 parallelism.tp=2", "output=markdown")
    lines = capsys.readouterr().out.splitlines()
    assert "### changes what is learned" in lines
    assert "| training.seed | 1,234 | 7 | said here |" in [line.replace("not said → ", "") for line in lines]
    assert all(line.count("|") - line.count("\\|") == 5 for line in lines if line.startswith("|"))


HOSTILE = ["a|b", "<script>", "`x`", "new\nline", "tab\there", "\x1b[31mred", "**bold**", "| x | y |", "ünïcode", "'"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_breaks_no_output(name: str) -> None:
    plain = spec(small_model(), 8)
    one = override(plain, "training.logging.wandb_project", name)
    comparison: Comparison = compare(Side(name, (Stage(one),)), Side("b", (Stage(plain),)))
    assert json.loads(json.dumps(document(comparison)))["a"] == name
    for line in markdown(comparison):
        assert "\n" not in line
        assert "\x1b" not in line
        assert "<" not in line
        assert not line.startswith("|") or line.count("|") - line.count("\\|") == 5


@pytest.mark.parametrize(
    ("operand", "said"),
    [
        ("llama3_405b", "did you mean recipe=llama3_405b?"),
        ("no/such/folder", "no such folder"),
        ("'open", "No closing quotation"),
        ("", "give a run folder"),
        ("a" * 5000, "no such folder"),
        ("x\0y", "no such folder"),
        ("recipe=nope", "A: recipe: no option 'nope'"),
        ("tests/test_diff.py", "no kind of file that is known"),
        ("tests", "holds no run"),
        (f"{WORDS} parallelism.vpp=2", "A: parallelism.vpp: "),
    ],
)
def test_what_names_no_run_is_one_line(operand: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(operand, WORDS) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_both_sides_problems_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nope", "neither") == 2
    assert [line[0] for line in capsys.readouterr().err.splitlines()] == ["A", "B"]


@pytest.mark.parametrize("words", [[], ["a"], ["a", "b", "c"], ["a", "b", "output=html"]])
def test_diff_takes_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_whose_name_looks_like_a_word_is_named_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    compile(resolve(changed()), tmp_path / "recipe=x", verify=False)
    assert run("./recipe=x", WORDS) == 0
    assert run("recipe=x", WORDS) == 2
    assert "no option 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "- a", "model: {", "a: &a [*a]", "!!python/object:os.system {}", "\x00"])
def test_a_damaged_run_folder_is_said_in_a_line_or_more(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert run(str(tmp_path), WORDS) == 2
    shown = capsys.readouterr().err
    assert all(line.startswith("A: ") for line in shown.splitlines())
    assert "Traceback" not in shown
