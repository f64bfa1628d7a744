"""``meshwright search`` and ``parallelism=auto`` from the command line: what is printed, written, refused."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import Any

import pytest
from rich.console import Console

import builders
from meshwright.cli import main
from meshwright.compose import load
from meshwright.resolver import normalise, resolve
from meshwright.run_folder import compile as compile_plan
from meshwright.search.elastic import continuations
from meshwright.search.frontier import scaling
from meshwright.search.rank import budget, rank
from meshwright.search.space import space
from meshwright.verbs.search import measure_command

WORDS = ["model=llama3_8b", "cluster.gpus=16", "training.global_batch=64"]


def searched(capsys, *words: str) -> Any:
    assert main(["search", *WORDS, "output=json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_answer_for_machines_has_the_ranking_and_every_reason(capsys):
    found = searched(capsys)
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
    found = searched(capsys, "why={tp:4,pp:2}")["why"]
    assert found["verdict"] == "slower"
    assert found["best"]["layout"]["parallelism.tp"] == 4
    assert searched(capsys, "why={tp:5}")["why"]["verdict"] == "excluded"


def test_pinned_keys_and_sets_are_kept(capsys):
    found = searched(capsys, "parallelism.tp=[2,4]", "parallelism.recompute=full")
    assert {line["layout"]["parallelism.tp"] for line in found["best"]} <= {2, 4}
    assert {line["layout"]["parallelism.recompute"] for line in found["best"]} == {"full"}


def test_where_nothing_fits_the_missing_memory_is_said(capsys):
    assert main(["search", "model=llama3_405b", "cluster.gpus=8", "training.global_batch=8"]) == 2
    assert "GiB over" in capsys.readouterr().err


def test_a_search_needs_a_batch(capsys):
    assert main(["search", "model=llama3_8b", "cluster.gpus=16"]) == 2
    assert "training.global_batch" in capsys.readouterr().err


def test_auto_is_the_winner_and_its_place_the_next_ones(capsys):
    best = searched(capsys)["best"]
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
        "search.objective=memory",
        "parallelism=3d",
    ]
    assert measure_command(words, 3) == (
        "meshwright launch recipe=x 'parallelism.tp=[2,4]' parallelism=auto search.objective=memory "
        "search.place=1,2,3 -m"
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
    several = ["cluster.gpus=[8,16]", *WORDS[:1], WORDS[2]]
    assert main(["search", *several, f"search.table={files['a.csv']}", f"search.plot={files['a.svg']}"]) == 0
    assert main(["search", *several, f"search.table={files['a.json']}", f"search.plot={files['a.png']}"]) == 0
    capsys.readouterr()
    lines = list(csv.DictReader(files["a.csv"].open()))
    assert {line["kind"] for line in lines} == {"best", "frontier", "scaling"}
    assert {int(line["gpus"]) for line in lines if line["kind"] == "scaling"} == {8, 16}
    assert json.loads(files["a.json"].read_text())["frontier"]
    assert files["a.svg"].read_text().lstrip().startswith("<?xml")
    assert files["a.png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("word", ["search.table=a.txt", "search.plot=a.gif", "search.table=no/such/folder/a.csv"])
def test_other_files_are_refused(word, capsys):
    assert main(["search", *WORDS, "parallelism.pp=1", "parallelism.cp=1", word]) == 2
    assert word.split("=")[0] in capsys.readouterr().err


def test_weak_scaling_grows_the_batch_and_strong_scaling_does_not():
    model = builders.small_model(layers=12, hidden=3072, ffn=12288, heads=24, kv_heads=8, head_dim=128)
    spec, stated = builders.spec(model, 8, 4096, 16), {"cluster.gpus": (8, 64)}
    for grows, batches in ((False, [16, 16]), (True, [16, 128])):
        points = scaling(rank(space(spec, stated, grows)))
        assert [p.candidate.spec.training.global_batch for p in points] == batches
        assert points[0].efficiency == 1
    weak = scaling(rank(space(spec, stated, True)))[1].efficiency
    assert weak > scaling(rank(space(spec, stated)))[1].efficiency


def test_fewer_nodes_keep_the_batch_or_come_near_it(tmp_path, capsys):
    model = builders.small_model(layers=8, hidden=2048, ffn=8192, heads=16, head_dim=128)
    spec = normalise(builders.spec(model, 64, 2048, 64, zero=1))
    same, near = continuations(spec, 7)
    assert same.candidate.spec.training.global_batch == 64
    assert same.nodes + same.idle == 7
    assert near.nodes == 7
    assert 0 < abs(near.batch_change) < 0.2
    for one in (same, near):
        assert one.candidate.peak_memory <= budget(spec.cluster)
        resolve(one.candidate.spec)
    compile_plan(resolve(spec), tmp_path / "run", verify=False)
    assert main(["search", f"search.folder={tmp_path / 'run'}", "search.nodes=7", "output=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["batch_change"] == 0 for c in found["continuations"]] == [True, False]
    assert main(["search", f"search.folder={tmp_path / 'run'}", "search.nodes=7"]) == 0
    assert "the same global batch" in capsys.readouterr().out
    assert main(["search", f"search.folder={tmp_path}", "search.nodes=7"]) == 2


def test_the_report_fits_any_console():
    from meshwright.report.search import show
    from meshwright.search.objective import Goal
    from meshwright.search.question import answer

    shown = io.StringIO()
    console = Console(file=shown, width=80)
    show(answer(space(builders.spec(builders.small_model(), 8, global_batch=8)), Goal()), "command", console)
    assert shown.getvalue()
