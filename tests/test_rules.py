"""Constraints: what they say, that they do not cascade, and that their repairs help."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import llama_405b, small_model, spec
from meshwright.errors import ConfigError, Problem
from meshwright.resolver import layout, normalise, override, refusals, resolve
from meshwright.rules import EVERY, POSITIVE, broken, every_rule
from meshwright.rules.values import value_problems
from meshwright.spec import PipelineSplit, RampStep, Schedule, Spec
from meshwright.spec.model import Moe

MOE = Moe(experts=8, topk=2, ffn=64)


def problems(candidate: Spec) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        resolve(candidate)
    return list(caught.value.problems)


def lines(**degrees: Any) -> list[str]:
    base = llama_405b()
    return [str(p) for p in problems(replace(base, parallelism=replace(base.parallelism, **degrees)))]


def test_126_layers_on_16_stages() -> None:
    assert lines(pipeline_split=PipelineSplit()) == [
        "parallelism.pp: 126 layers do not split over pp·vpp = 16·1; set "
        "parallelism.pipeline_split.embedding=true parallelism.pipeline_split.loss=true, or "
        "parallelism.pipeline_split.first=7 parallelism.pipeline_split.last=7, or parallelism.pipeline_split.last=6"
    ]


def test_all_that_is_wrong_with_tp_24() -> None:
    found = lines(tp=24)
    assert [line.split(";")[0] for line in found] == [
        "parallelism: tp·cp·pp = 24·1·16 does not divide the world of 16384 GPUs",
        "parallelism.tp: 128 attention heads do not divide by tp = 24",
        "parallelism.tp: ffn = 53248 does not divide by tp = 24",
        "training.sequence: sequence/cp = 8192/1 does not divide by tp = 24, which sequence parallelism needs",
    ]
    assert "set parallelism.tp=32, or parallelism.tp=16" in found[1]


def test_where_one_value_mends_everything_no_other_is_proposed() -> None:
    """tp = 26 would divide ffn = 53248, and break everything else still."""
    base = llama_405b()
    for problem in problems(replace(base, parallelism=replace(base.parallelism, tp=24))):
        assert problem.repairs
        for repair in problem.repairs:
            for path, value in repair.items():
                assert resolve(override(base, path, value))


def test_a_degree_of_zero_is_the_only_thing_said() -> None:
    assert lines(pp=0) == ["parallelism.pp: 0 is not a positive count; set parallelism.pp=1"]


def test_zero_3_does_not_go_with_a_pipeline_on_either_backend() -> None:
    base = llama_405b()
    sharded = replace(base, parallelism=replace(base.parallelism, zero=3))
    for backend in EVERY:
        assert "zero.pipeline" in {p.rule for p in refusals(sharded, backend)}


def test_ep_is_no_factor_of_the_dense_world() -> None:
    assert resolve(spec(small_model(moe=MOE), 8, tp=2, sp=True, ep=8)).grid.dp == 4


def test_world_too_small_for_the_experts() -> None:
    candidate = spec(small_model(moe=replace(MOE, experts=16)), 8, ep=16)
    assert [str(p) for p in problems(candidate)] == [
        "parallelism.ep: ep·etp·pp = 16·1·1 does not divide the world of 8 GPUs; "
        "set cluster.gpus=16 cluster.nodes=null, or parallelism.ep=8"
    ]


def test_a_batch_that_does_not_divide() -> None:
    problem = problems(spec(small_model(), 8, global_batch=12))[0]
    assert problem.rule == "batch.global"
    assert {"training.global_batch": 16, "training.microbatches": None} in problem.repairs


def test_a_ramp_grows_from_zero_tokens_to_the_global_batch() -> None:
    good = (RampStep(from_tokens=0, global_batch=8), RampStep(from_tokens=1000, global_batch=16))
    base = spec(small_model(), 8, global_batch=16)
    assert resolve(replace(base, training=replace(base.training, ramp=good)))
    for bad in (good[:1], good[1:], good[::-1], (replace(good[0], global_batch=12), good[1])):
        assert problems(replace(base, training=replace(base.training, ramp=bad)))[0].rule == "batch.ramp"


def trained(**changes: Any) -> Spec:
    """A run of sequences of 512 tokens in batches of 16, on eight GPUs."""
    base = spec(small_model(), 8, global_batch=16, zero=1)
    return replace(base, training=replace(base.training, **changes))


@pytest.mark.parametrize("backend", EVERY)
def test_steps_and_tokens_that_disagree_are_refused(backend: str) -> None:
    """100 steps of 16 sequences of 512 tokens are 819,200 tokens; papers round them."""
    assert not refusals(trained(steps=100, tokens=820_000), backend)
    (problem,) = refusals(trained(steps=100, tokens=1_000_000_000), backend)
    assert str(problem) == (
        "training.steps: 100 steps, but 1,000,000,000 tokens are 122,071 at this batch; "
        "set training.tokens=null, or training.steps=null"
    )


@pytest.mark.parametrize(
    ("length", "said"),
    [
        ({"steps": 100}, "500 steps of warm-up do not end before the decay does, after 100 (the run's steps)"),
        ({"tokens": 819_200}, "after 100 (the run's steps)"),
        ({}, "after 100 (the run's length is not stated)"),
    ],
)
def test_a_warm_up_ends_within_the_run(length: dict[str, int], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.layout.length.UNSTATED_STEPS", 100)
    monkeypatch.setattr("meshwright.rules.length.UNSTATED_STEPS", 100)
    (problem,) = problems(trained(**length, schedule=Schedule(warmup_steps=500)))
    assert said in problem.message
    assert {"training.schedule.warmup_steps": 10} in problem.repairs
    assert resolve(trained(**length, schedule=Schedule(warmup_steps=500, decay_steps=1000)))


def test_what_is_wrong_with_a_ramp_in_words() -> None:
    base = spec(small_model(), 8, global_batch=16)
    ramp = (RampStep(from_tokens=5, global_batch=16), RampStep(from_tokens=2, global_batch=12))
    (problem,) = problems(replace(base, training=replace(base.training, ramp=ramp)))
    assert str(problem) == (
        "training.ramp: batches 12 of the ramp do not divide by micro_batch·dp = 1·8, and the ramp starts at 5 tokens, "
        "not at 0, and the ramp does not grow: batches 16, 12 from 5, 2 tokens on, and the ramp ends at 12 sequences, "
        "not at training.global_batch = 16; set training.ramp=[]"
    )


def test_dense_layers_first_but_not_more_than_there_are() -> None:
    (problem,) = problems(spec(small_model(moe=replace(MOE, first_dense=99)), 8))
    assert str(problem) == (
        "model.moe.first_dense: 99 dense layers come first, but there are 8 layers in all; set model.moe.first_dense=0"
    )


def test_derived_ends_need_one_of_gpus_nodes_and_dp() -> None:
    base = spec(small_model(), 8, tp=2, sp=True)
    free = replace(base.cluster, gpus=None)
    with pytest.raises(ConfigError, match=r"cluster\.gpus: not set"):
        resolve(replace(base, cluster=free))
    assert resolve(replace(base, cluster=replace(free, nodes=2))).grid.dp == 8
    by_dp = replace(base, cluster=free, parallelism=replace(base.parallelism, dp=3))
    assert resolve(by_dp).grid.world == 6
    assert [w.rule for w in resolve(by_dp).warnings] == ["length", "whole-nodes"]


def test_every_need_stands_before_the_rule_that_needs_it() -> None:
    seen: set[str] = set()
    for rule in POSITIVE + every_rule():
        assert set(rule.needs) <= seen, rule.id
        assert rule.id not in seen, "ids are unique"
        seen.add(rule.id)


@st.composite
def layouts(draw: st.DrawFn) -> Spec:
    degree = st.sampled_from([1, 1, 2, 3, 4])
    moe = draw(st.booleans())
    model = small_model(layers=draw(st.sampled_from([6, 8, 12])), moe=MOE if moe else None)
    first, last = draw(st.sampled_from([None, None, 1, 2])), draw(st.sampled_from([None, None, 1, 2]))
    division = PipelineSplit(first=first, last=last, embedding=draw(st.booleans()), loss=draw(st.booleans()))
    return spec(
        model,
        draw(st.sampled_from([8, 16, 24, 48])),
        draw(st.sampled_from([512, 510])),
        draw(st.sampled_from([16, 24, 48, None])),
        tp=draw(degree),
        sp=draw(st.booleans()),
        pp=draw(degree),
        vpp=draw(st.sampled_from([1, 1, 2])),
        cp=draw(degree),
        ep=draw(degree) if moe else 1,
        etp=draw(degree) if moe else 1,
        zero=draw(st.integers(0, 3)),
        pipeline_split=division,
    )


@settings(max_examples=150, deadline=None)
@given(layouts())
def test_each_repair_applied_alone_mends_its_problem_and_breaks_nothing(candidate: Spec) -> None:
    found = refusals(candidate, "megatron")
    for problem in found:
        for repair in problem.repairs:
            mended = candidate
            for path, value in repair.items():
                mended = override(mended, path, value)
            left = broken_rules(mended)
            assert left <= {p.rule for p in found} - {problem.rule}
            if len(found) == 1:
                assert resolve(mended)


def broken_rules(candidate: Spec) -> set[str]:
    """Those of ``refusals``, without repairs of what is left."""
    rules = (rule.id for rule in broken(layout(normalise(candidate)), "megatron"))
    return {problem.rule for problem in value_problems(candidate, "megatron")}.union(rules)


@settings(max_examples=50, deadline=None)
@given(layouts())
def test_normalising_twice_is_normalising_once(candidate: Spec) -> None:
    assert normalise(normalise(candidate)) == normalise(candidate)
