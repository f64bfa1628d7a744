"""``search.folder`` with ``search.nodes``: a run that goes on on other nodes, and what goes over to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import builders
from meshwright.cli import main
from meshwright.jobs.run_folder import compile as compile_plan
from meshwright.loading import load
from meshwright.resolver import normalise, resolve
from meshwright.search.candidate import assignments
from meshwright.search.elastic import continuations
from meshwright.search.rank import budget


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
    words = ["search", f"search.folder={tmp_path / 'run'}", "search.nodes=7", "parallelism.cp=1"]
    assert main([*words, "output=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["batch_change"] == 0 for c in found["continuations"]] == [True, False]
    assert main(words) == 0
    assert "the same global batch" in capsys.readouterr().out
    assert main(["search", f"search.folder={tmp_path}", "search.nodes=7"]) == 2


RUN = ["model=llama3_8b", "cluster.nodes=8", "parallelism.tp=2", "parallelism.sp=true", "parallelism.zero=1"]
RUN += ["training.global_batch=128", "training.steps=2000"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A compiled run on 8 nodes that has saved step 800."""
    (spec,) = load(RUN).stages
    compile_plan(resolve(spec), tmp_path / "run", verify=False)
    saved = tmp_path / "run" / "checkpoints"
    saved.mkdir()
    (saved / "latest_checkpointed_iteration.txt").write_text("800")
    return tmp_path / "run"


def test_a_continuation_says_what_goes_over_from_the_checkpoint(run_folder, capsys):
    assert main(["search", f"search.folder={run_folder}", "search.nodes=7", "output=json"]) == 0
    same, near = json.loads(capsys.readouterr().out)["continuations"]
    for one in (same, near):
        assert one["carried"]  # its optimizer is sharded as the checkpoint is
        assert f"data: goes on at sample {800 * 128:,}" in one["transition"]
        assert "optimizer state: resharded by Megatron (torch_dist)" in one["transition"]
    assert "length: 153,600 sequences are left, 1,200 steps" in same["transition"]
    assert any(line.startswith("layout: ") and "dp 32 -> " in line for line in near["transition"])
    assert any("checkpoints, of step 800" in line for line in near["transition"])


def test_words_of_a_continuation_compose_behind_those_of_the_run(run_folder, capsys):
    pinned = ["parallelism.tp=1", "parallelism.pp=[1,2]"]
    assert main(["search", f"search.folder={run_folder}", "search.nodes=7", *pinned, "output=json"]) == 0
    for one in json.loads(capsys.readouterr().out)["continuations"]:
        assert {"parallelism.tp=1", "parallelism.sp=false"} <= set(one["overrides"])
        (spec,) = load([*RUN, *one["overrides"]]).stages
        assert assignments(normalise(spec)) == one["layout"]
        assert normalise(spec).cluster.gpus == one["gpus"]


@pytest.mark.parametrize("word", ["search.objective=memory", "search.table=a.csv", "cluster.gpus=8", "parallelism=3d"])
def test_what_a_continuation_cannot_honour_is_refused(word, run_folder, capsys):
    assert main(["search", f"search.folder={run_folder}", "search.nodes=7", word]) == 2
    assert f"{word.split('=')[0]}: has no meaning beside search.folder" in capsys.readouterr().err


def test_a_folder_whose_configuration_is_broken_is_an_error(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("a: [")
    assert main(["search", f"search.folder={tmp_path}", "search.nodes=7"]) == 2
    assert "search.folder: cannot read" in capsys.readouterr().err
