"""Techniques tried beside layouts: the winner has those that make it faster, with a reason for each."""

from __future__ import annotations

import json

import pytest

from meshwright.cli import main
from meshwright.errors import ConfigError
from meshwright.loading import load
from meshwright.search.exact import search
from meshwright.search.objective import Goal
from meshwright.search.space import space
from meshwright.search.techniques import asked_of, bundles, with_techniques

WORDS = (
    "model=qwen3_30b_a3b",
    "cluster=gb200_nvl72",
    "cluster.gpus=16",
    "training.sequence=4096",
    "training.global_batch=64",
    "training.precision=mxfp8",
)
PINNED = ("parallelism.tp=1", "parallelism.cp=1", "parallelism.pp=1", "parallelism.ep=8", "training.micro_batch=1")
RECOMPUTE = "parallelism.recompute=none"


def test_an_unknown_technique_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean cuda_graphs"):
        asked_of(["cuda_graph"])


def test_a_technique_of_the_other_backend_is_refused_not_left_out() -> None:
    spec = load(list(WORDS)).stages[0]
    with pytest.raises(ConfigError, match="zenflow is of backend=deepspeed, and backend=megatron is searched"):
        with_techniques(space(spec, {}), ["zenflow"])
    with pytest.raises(ConfigError, match=r"write search\.techniques=none"):
        with_techniques(space(spec, {}), ["router_fusion", "none"])
    assert {one.backend for one in asked_of(["all"], "deepspeed")} == {"deepspeed"}


def test_all_and_none_are_said_by_a_word() -> None:
    for word, names in (("all", ["all"]), ("none", []), ("[dispatcher]", ["dispatcher"])):
        said = load([*WORDS, f"search.techniques={word}"]).options.search.techniques
        assert asked_of(said) == asked_of(names)
    with pytest.raises(ConfigError, match="expected a list, got 'dispatcher'"):
        load([*WORDS, "search.techniques=dispatcher"])
    with pytest.raises(ConfigError, match=r"expected a list, got null; write \[\]"):
        load([*WORDS, "search.techniques=null"])


def test_bundles_have_nothing_that_the_nodes_lack() -> None:
    """What attention's graph holds is offloaded from Transformer Engine 2.14 on; no DeepEP, no dispatcher of its."""
    graph, offload = "backend.megatron.cuda_graphs.kind", "backend.megatron.activation_offload.modules"

    def made(*words: str) -> list[set[str]]:
        return [{*change} for change in bundles(load([*WORDS, *words]).stages[0], asked_of(["all"]))]

    old, new = (made(f"software.components.transformer_engine={version}") for version in ("2.13.0", "2.14.0"))
    assert not any({graph, offload} <= change for change in old)
    assert any({graph, offload} <= change for change in new)
    without = made("+software.components.deep_ep=null")
    assert not any("backend.megatron.moe_flex_backend" in change for change in without)


def test_bundles_start_with_none_and_end_with_what_trades_time_for_memory() -> None:
    spec = load(list(WORDS)).stages[0]
    found = bundles(spec, asked_of(["all"]))
    assert found[0] == {}
    assert "backend.megatron.cuda_graphs.kind" in found[1]
    assert not found[1].keys() & found[-1].keys() - found[1].keys()
    assert any("backend.megatron.optimizer_offload.fraction" in bundle for bundle in found)
    assert bundles(spec, ()) == ({},)


def test_the_winner_is_at_least_as_fast_with_techniques_to_choose_from() -> None:
    spec = load([*WORDS, *PINNED]).stages[0]
    stated = {word.split("=")[0]: (int(word.split("=")[1]),) for word in PINNED}
    around = space(spec, {**stated, "parallelism.recompute": ("none",)})
    plain = search(around, Goal(top=1)).best[0]
    bundled = search(with_techniques(around, ["all"]), Goal(top=1))
    assert bundled.best[0].step_time < plain.step_time


def test_the_report_names_techniques_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", *WORDS, *PINNED, RECOMPUTE, "search.techniques=[router_fusion,optimizer_offload]", "output=json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert "router_fusion" in found["best"][0]["techniques"]
    assert any(note.startswith("router_fusion saves") for note in found["notes"])
    assert any(note.startswith("optimizer_offload is") for note in found["notes"])
    assert "search.techniques=" in found["measure"]
