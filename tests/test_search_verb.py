"""``meshwright search`` and ``parallelism=auto`` from the command line: what is printed, written, refused."""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import redirect_stdout
from typing import Any

import pytest
from rich.console import Console

import builders
from meshwright.cli import main
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.search.frontier import scaling
from meshwright.search.rank import rank
from meshwright.search.space import space
from meshwright.verbs.search import measure_command

WORDS = ["model=llama3_8b", "cluster.gpus=16", "training.global_batch=64"]


def searched(capsys, *words: str) -> Any:
    assert main(["search", *WORDS, "output=json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def found() -> Any:
    """The answer for machines to ``WORDS``."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(["search", *WORDS, "output=json"]) == 0
    return json.loads(printed.getvalue())


def test_the_answer_for_machines_has_the_ranking_and_every_reason(found):
    assert found["valid"] + sum(e["points"] for e in found["excluded"]) == found["points"]
    assert len(found["best"]) == 5
    assert [line["step_time_s"] for line in found["best"]] == sorted(line["step_time_s"] for line in found["best"])
    assert all(choice["reasons"] for choice in found["choices"])
    assert all(e["example"] for e in found["excluded"])
    assert found["winner_against_runner_up"].startswith("change ")
    assert found["winner_against_current"].startswith("change ")


def test_a_person_sees_the_layouts_and_no_progress_bar_in_a_pipe(capsys):
    assert main(["search", *WORDS]) == 0
    out, err = capsys.readouterr()
    assert "layouts proposed" in out
    assert "excluded by rule" in out
    assert "measure the best: meshwright launch" in out
    assert err == ""


def test_a_terminal_gets_a_progress_bar(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["search", *WORDS, "parallelism.pp=1"]) == 0
    assert "layouts costed" in terminal.getvalue()


def test_why_explains_one_layout(capsys):
    few = ("parallelism.cp=1", "parallelism.vpp=1")
    found = searched(capsys, *few, "why={tp:4,pp:2}")["why"]
    assert found["verdict"] == "slower"
    assert found["best"]["layout"]["parallelism.tp"] == 4
    assert searched(capsys, *few, "why={tp:5}")["why"]["verdict"] == "excluded"


def test_pinned_keys_and_sets_are_kept(capsys):
    found = searched(capsys, "parallelism.tp=[2,4]", "parallelism.recompute=full")
    assert {line["layout"]["parallelism.tp"] for line in found["best"]} <= {2, 4}
    assert {line["layout"]["parallelism.recompute"] for line in found["best"]} == {"full"}


def test_where_nothing_fits_the_missing_memory_is_said(capsys):
    assert main(["search", "model=llama3_405b", "cluster.gpus=8", "training.global_batch=8"]) == 2
    said = capsys.readouterr()
    assert "GiB over" in said.err
    assert "no other layout beats" not in said.out
    assert "every other value" in said.out


def test_where_nothing_is_fast_enough_the_missing_days_are_said(capsys):
    words = ["search.objective=gpus", "search.days=1", "training.tokens=1000000000000", "parallelism.pp=1"]
    assert main(["search", *WORDS, *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("search.days: 1, but the fastest layout that fits takes ")
    assert "on 16 GPUs" in err


@pytest.mark.parametrize("word", ["search.place=0", "search.place=100000", "search.top=-1", "search.days=0"])
def test_places_and_days_that_cannot_be_are_refused(word, capsys):
    for verb in (["search"], ["plan", "parallelism=auto"]):
        assert main([*verb, *WORDS, word]) == 2
        assert capsys.readouterr().err.startswith(f"{word.split('=')[0]}: ")


def test_a_place_behind_the_last_layout_is_refused(capsys):
    pinned = [f"parallelism.{word}" for word in ("tp=1", "pp=1", "cp=1", "zero=2", "recompute=full", "vpp=1")]
    assert main(["plan", *WORDS, "parallelism=auto", *pinned, "training.micro_batch=1", "search.place=7"]) == 2
    assert "only 1 layout" in capsys.readouterr().err


def test_plan_leaves_why_to_search(capsys):
    assert main(["plan", *WORDS, "why={tp:4}"]) == 2
    assert "answered by meshwright search" in capsys.readouterr().err


def test_a_search_needs_a_batch(capsys):
    assert main(["search", "model=llama3_8b", "cluster.gpus=16"]) == 2
    assert "training.global_batch" in capsys.readouterr().err


def test_auto_is_the_winner_and_its_place_the_next_ones(found):
    best = found["best"]
    for place in (1, 3):
        (spec,) = load([*WORDS, "parallelism=auto", f"search.place={place}"]).stages
        layout = best[place - 1]["layout"]
        assert resolve(spec).grid.tp == layout.get("parallelism.tp", 1)
        assert spec.training.micro_batch == layout["training.micro_batch"]
        assert spec.parallelism.zero == layout.get("parallelism.zero", 0)


def test_auto_keeps_what_is_set_beside_it_and_lays_out_each_stage_of_a_recipe():
    (spec,) = load([*WORDS, "parallelism=auto", "parallelism.tp=[2,4]", "parallelism.pp=2"]).stages
    assert spec.parallelism.tp in (2, 4)
    assert spec.parallelism.pp == 2
    run = load(["recipe=yi_6b", "parallelism=auto"])
    assert run.name == "yi_6b"
    for stage in run.stages:
        resolve(stage)


def test_the_command_that_measures_repeats_what_was_asked():
    words = [
        "recipe=x",
        "parallelism.tp=[2,4]",
        "output=json",
        "why={tp:2}",
        "search.objective=gpus",
        "search.days=30",
        "parallelism=3d",
    ]
    assert measure_command(words, 3) == (
        "meshwright launch recipe=x 'parallelism.tp=[2,4]' parallelism=auto search.objective=gpus "
        "search.days=30 search.place=1,2,3 -m"
    )


def test_the_winner_is_compiled_like_any_plan(tmp_path, capsys):
    words = ["search.compile=true", "verify=false", f"runs={tmp_path}", "parallelism.pp=1"]
    assert main(["search", *WORDS, *words]) == 0
    (folder,) = tmp_path.iterdir()
    assert (folder / "megatron" / "args.txt").is_file()
    assert folder.name in capsys.readouterr().out


def test_objective_gpus_asks_for_days_and_length(capsys):
    assert main(["search", *WORDS, "search.objective=gpus"]) == 2
    assert "search.days" in capsys.readouterr().err


def test_a_budget_is_answered_with_the_fewest_gpus(capsys):
    assert (
        main(
            [
                "search",
                *WORDS[:1],
                "training.global_batch=256",
                "cluster.gpus=[16,32,64]",
                "output=json",
                "training.tokens=1000000000000",
                "search.objective=gpus",
                "search.days=40",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    days = {line["gpus"]: line["days"] for line in found["scaling"]}
    assert found["best"][0]["gpus"] == min(gpus for gpus, needed in days.items() if needed <= 40)


def test_tables_and_plots_are_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = {name: tmp_path / name for name in ("a.csv", "a.json", "a.svg", "a.png")}
    several = ["cluster.gpus=[8,16]", *WORDS[:1], WORDS[2], "parallelism.cp=1", "parallelism.vpp=1"]
    assert main(["search", *several, f"search.table={files['a.csv']}", f"search.plot={files['a.svg']}"]) == 0
    assert main(["search", *several, f"search.table={files['a.json']}", f"search.plot={files['a.png']}"]) == 0
    capsys.readouterr()
    lines = list(csv.DictReader(files["a.csv"].open()))
    assert {line["kind"] for line in lines} == {"best", "frontier", "scaling"}
    assert {int(line["gpus"]) for line in lines if line["kind"] == "scaling"} == {8, 16}
    assert json.loads(files["a.json"].read_text())["frontier"]
    assert files["a.svg"].read_text().lstrip().startswith("<?xml")
    assert files["a.png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "word", ["search.table=a.txt", "search.plot=a.gif", "search.table=no/such/folder/a.csv", "search.table=/proc/a.csv"]
)
def test_other_files_are_refused_before_the_search(word, capsys):
    assert main(["search", *WORDS, "parallelism.pp=1", "parallelism.cp=1", word]) == 2
    out, err = capsys.readouterr()
    assert word.split("=")[0] in err
    assert out == ""


def test_weak_scaling_grows_the_batch_and_strong_scaling_does_not():
    model = builders.small_model(layers=12, hidden=3072, ffn=12288, heads=24, kv_heads=8, head_dim=128)
    spec, stated = builders.spec(model, 8, 4096, 16), {"cluster.gpus": (8, 64)}
    for grows, batches in ((False, [16, 16]), (True, [16, 128])):
        points = scaling(rank(space(spec, stated, grows)))
        assert [p.candidate.spec.training.global_batch for p in points] == batches
        assert points[0].efficiency == 1
    weak = scaling(rank(space(spec, stated, True)))[1].efficiency
    assert weak > scaling(rank(space(spec, stated)))[1].efficiency


def test_the_report_fits_any_console():
    from meshwright.report.search import show
    from meshwright.search.objective import Goal
    from meshwright.search.question import answer

    shown = io.StringIO()
    console = Console(file=shown, width=80)
    show(answer(space(builders.spec(builders.small_model(), 8, global_batch=8)), Goal()), "command", console)
    assert shown.getvalue()


def test_a_search_without_a_valid_layout_says_what_would_let_some_in(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=mixtral_8x7b", "cluster=dgx_a100_80gb", "cluster.gpus=96", "training.global_batch=256"]
    assert main(["search", *words, "parallelism.tp=3"]) == 2
    shown = capsys.readouterr()
    assert "parallelism.tp=2 would let some in" in shown.err
    assert "tensor.heads" in shown.err
    assert "excluded by rule" in shown.out
    assert "beats in step time" not in shown.out  # no empty tables
    assert main(["search", *words, "parallelism.tp=3", "parallelism.pp=5"]) == 2
    assert "would let some in" not in capsys.readouterr().err
