"""The ranking: equal to brute force over resolve and cost, the reasons true, the frontier undominated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import builders
from meshwright.cost import cost, estimate
from meshwright.errors import ConfigError
from meshwright.resolver import layout, resolve
from meshwright.search.candidate import assignments, spec_of
from meshwright.search.exact import layout_cost, search
from meshwright.search.objective import DAY, Goal, run_steps
from meshwright.search.rank import TIE, budget, rank
from meshwright.search.reasons import asked_of, compare, why
from meshwright.search.space import space, variants
from meshwright.search.table import as_layout, enumerate_layouts
from meshwright.spec import Parallelism, PipelineSplit, Spec
from meshwright.spec.model import Moe


def dense(gpus: int = 16, **training: Any) -> Spec:
    """A model of 1.6 billion parameters: some layouts fit on 80 GB, some do not."""
    model = builders.small_model(layers=12, hidden=3072, ffn=12288, heads=24, kv_heads=8, head_dim=128, vocab=128000)
    spec = builders.spec(model, gpus, sequence=4096, global_batch=32)
    return replace(spec, training=replace(spec.training, **training))


def experts() -> Spec:
    moe = Moe(experts=8, topk=2, ffn=4096, first_dense=1)
    model = builders.small_model(layers=12, hidden=2048, ffn=8192, heads=16, kv_heads=8, head_dim=128, moe=moe)
    return builders.spec(model, 8, sequence=4096, global_batch=16)


def windows() -> Spec:
    """One layer in three looks at everything."""
    model = builders.small_model(layers=12, hidden=2048, ffn=8192, mtp=1, sliding_window=512, full_attention_every=3)
    return builders.spec(model, 8, sequence=4096, global_batch=16)


def predicting() -> Spec:
    return replace(experts(), model=replace(experts().model, mtp=1))


DIVISIONS = (
    (4, 1, PipelineSplit()),
    (4, 3, PipelineSplit()),
    (2, 3, PipelineSplit(first=3, last=9)),
    (2, 2, PipelineSplit(layout="Et*4|tt|ttt|tttmL")),
)

FEW = {"parallelism.vpp": (1, 2), "parallelism.cp": (1,), "parallelism.recompute": ("none", "full")}


@pytest.mark.parametrize("spec", [dense(8), experts()], ids=["dense", "experts"])
def test_it_ranks_as_brute_force_over_resolve_and_cost_does(spec):
    """Layout by layout: each is resolved on its own, costed as plain numbers, and sorted."""
    asked = space(spec, {**FEW, "training.micro_batch": (1, 2)})
    alone = []
    for variant in variants(asked):
        for table in enumerate_layouts(variant).chunks:
            together = estimate(as_layout(variant.spec, table))
            for i in range(0, len(table["tp"]), 11 if spec.model.moe else 1):
                plan = resolve(spec_of(variant, {name: int(column[i]) for name, column in table.items()}))
                one = estimate(layout(plan.spec))
                assert one.step_time == pytest.approx(together.step_time[i], rel=1e-12)
                assert one.peak_memory == pytest.approx(together.peak_memory[i], rel=1e-12)
                if one.peak_memory <= budget(plan.spec.cluster):
                    alone.append((float(one.step_time), float(one.peak_memory)))
    ranking = rank(asked)
    found = [(c.step_time, c.peak_memory) for c in ranking.best[:10]]
    assert found == sorted(found)
    if spec.model.moe:  # every eleventh only: none of them may beat the winner
        assert found[0] <= min(alone)
    else:
        assert found == [pytest.approx(pair, rel=1e-12) for pair in sorted(alone)[:10]]


def test_the_frontier_is_what_nothing_beats_in_both_time_and_memory():
    asked = space(dense())
    ranking = rank(asked)
    time, memory = [], []
    for variant in variants(asked):
        for table in enumerate_layouts(variant).chunks:
            costs = estimate(as_layout(variant.spec, table))
            time.append(costs.step_time)
            memory.append(costs.peak_memory)
    times, memories = np.concatenate(time), np.concatenate(memory)
    fits = memories <= budget(asked.current.cluster)
    for c in ranking.frontier:
        beaten = fits & (times < c.step_time) & (memories < c.peak_memory)
        assert not beaten.any()
    assert ranking.frontier[0].step_time == times[fits].min()
    assert ranking.frontier[-1].peak_memory == memories[fits].min()


def test_a_small_chunk_size_changes_nothing(monkeypatch):
    whole = rank(space(dense()))
    monkeypatch.setattr("meshwright.search.table.ROWS", 500)
    parts = rank(space(dense()))
    assert [c.columns for c in parts.best] == [c.columns for c in whole.best]
    assert {k: c.score for k, c in parts.choices.items()} == {k: c.score for k, c in whole.choices.items()}
    assert (parts.points, parts.valid, parts.fitting) == (whole.points, whole.valid, whole.fitting)
    assert [c.step_time for c in parts.frontier] == [c.step_time for c in whole.frontier]


def test_pinning_the_winner_finds_the_winner():
    ranking = rank(space(dense()))
    best = ranking.best[0]
    stated = {path: (value,) for path, value in assignments(best.spec).items()}
    again = rank(space(dense(), stated))
    assert again.best[0].spec == best.spec
    assert again.best[0].step_time == best.step_time


def test_the_parts_of_a_step_add_up():
    for c in rank(space(dense())).best:
        assert sum(c.parts.values()) == pytest.approx(c.step_time)


def test_ties_are_layouts_that_the_model_cannot_tell_apart():
    ranking = search(space(dense()), Goal(top=20))
    assert all(c.score <= ranking.best[0].score * (1 + TIE) for c in ranking.ties)
    assert len(ranking.ties) < len(ranking.best)


def test_with_the_objective_gpus_a_tie_is_one_of_step_times():
    """Nearly all of that score are the GPUs: by it, every layout on as many would tie."""
    asked = space(dense(steps=100_000))
    ranking = search(asked, Goal("gpus", top=40, days=1000))
    winner = ranking.best[0]
    assert all(c.score <= winner.score * (1 + TIE) for c in ranking.best)
    assert ranking.ties == [c for c in ranking.best[1:] if c.step_time <= winner.step_time * (1 + TIE)]
    assert len(ranking.ties) < 39


@pytest.mark.parametrize("objective", ["time", "throughput", "gpu_hours", "memory", "gpus"])
def test_each_objective_has_its_own_best(objective):
    asked = space(dense(steps=100_000), {"cluster.gpus": (8, 16)})
    days = 1.5 * rank(space(dense(8, steps=100_000))).best[0].step_time * 100_000 / DAY
    best = rank(asked, Goal(objective, days=days)).best[0]
    fastest = rank(asked).best[0]
    if objective == "time":
        assert best.gpus == 16
    elif objective == "memory":
        assert best.peak_memory <= fastest.peak_memory
    elif objective == "gpus":
        assert best.gpus == 8
        assert best.step_time * run_steps(best.spec) <= days * DAY
    else:
        assert best.tokens_per_gpu >= fastest.tokens_per_gpu


def test_a_run_that_no_cluster_finishes_in_time_has_no_winner():
    assert rank(space(dense(steps=100_000)), Goal("gpus", days=1e-3)).winner is None


def test_the_exact_ranking_is_that_of_every_layout_costed_exactly():
    """The closed form only decides whom to simulate; where the search says so, nobody better was left out."""
    spec = replace(dense(8), training=replace(dense(8).training, global_batch=16))
    asked = space(spec, {**FEW, "parallelism.recompute": ("none",), "training.micro_batch": (1,)})
    found = search(asked, Goal(top=5))
    assert found.proven
    every = []
    for variant in variants(asked):
        for table in enumerate_layouts(variant).chunks:
            for i in range(len(table["tp"])):
                whole = cost(resolve(spec_of(variant, {name: int(column[i]) for name, column in table.items()})))
                every += [whole.step_time] if whole.fits else []
    assert [c.step_time for c in found.best] == pytest.approx(sorted(every)[:5])


@pytest.mark.parametrize("spec", [dense(), experts()], ids=["dense", "experts"])
def test_the_closed_form_is_a_lower_bound_of_what_is_found_exactly(spec):
    for c in rank(space(spec)).best[:20]:
        assert c.step_time <= layout_cost(c.spec, Goal()).step_time * (1 + 1e-9)


@pytest.mark.parametrize("variant", [predicting(), windows()], ids=["a dense layer first", "two kinds of attention"])
def test_uneven_stages_are_seen_as_the_plan_has_them(variant):
    """Leading dense layers, layers that predict further tokens, layout strings: memory is equal, time no longer."""
    for pp, vpp, division in DIVISIONS:
        p = Parallelism(pp=pp, vpp=vpp, zero=1, pipeline_split=division)
        plan = resolve(replace(variant, parallelism=p))
        closed, whole = estimate(layout(plan.spec)), cost(plan)
        assert closed.peak_memory == pytest.approx(whole.peak_memory, rel=1e-12), (pp, vpp, division)
        assert 0.8 * whole.step_time <= closed.step_time <= whole.step_time * (1 + 1e-9), (pp, vpp, division)


class TestWhy:
    def test_an_excluded_layout_names_its_rule_with_the_numbers(self):
        asked = space(dense())
        answer = why(asked, search(asked, Goal()), {"tp": 16})
        assert answer.verdict == "excluded"
        assert any("24 attention heads do not divide by tp = 16" in str(p) for p in answer.problems)

    def test_a_layout_that_does_not_fit_is_told_the_bytes(self):
        big = builders.spec(builders.LLAMA_405B, 64, sequence=8192, global_batch=64)
        asked = space(big)
        answer = why(asked, search(asked, Goal()), {"tp": 1, "pp": 1, "zero": 0})
        assert answer.verdict == "memory"
        assert "GiB over" in answer.reasons[0]

    def test_a_slower_layout_is_told_the_seconds_and_where(self):
        asked = space(dense())
        ranking = search(asked, Goal())
        answer = why(asked, ranking, {"recompute": "full"})
        assert answer.verdict == "slower"
        assert any("recomputing" in reason for reason in answer.reasons)
        assert answer.comparison is not None
        assert answer.candidate is not None
        assert answer.comparison.step_time > 0
        assert answer.candidate.step_time > ranking.best[0].step_time

    def test_the_winner_is_said_to_be_chosen(self):
        asked = space(dense())
        ranking = search(asked, Goal())
        answer = why(asked, ranking, {"pp": ranking.best[0].columns["pp"], "zero": ranking.best[0].columns["zero"]})
        assert answer.verdict == "chosen"

    def test_an_unknown_key_is_an_error(self):
        asked = space(dense())
        with pytest.raises(ConfigError, match=r"why\.tpp"):
            why(asked, search(asked, Goal()), {"tpp": 2})

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("tp", "x", "expected a whole number, got 'x'"),
            ("tp", 4.5, "expected a whole number, got 4.5"),
            ("tp", [], "is no value of it"),
            ("pp", -1, "-1 is not a positive count"),
            ("sp", "maybe", "expected true or false"),
            ("recompute", "banana", "expected one of none, selective, full"),
            ("gpus", None, "none is no value of it"),
        ],
    )
    def test_a_value_is_judged_before_the_search(self, key, value, message):
        with pytest.raises(ConfigError, match=rf"why\.{key}: .*{message}"):
            asked_of(dense(), {key: value})

    def test_more_stages_than_layers_are_excluded(self):
        asked = space(dense())
        assert why(asked, search(asked, Goal()), {"pp": 100}).verdict == "excluded"

    def test_a_comparison_reads_as_advice(self):
        asked = space(dense())
        slow = search(space(dense(), {"parallelism.tp": (8,), "parallelism.sp": (True,)}), Goal()).best[0]
        line = str(compare(slow, search(asked, Goal()).best[0]))
        assert line.startswith("change tp 8→")
        assert "% step time" in line
        assert "GiB" in line
