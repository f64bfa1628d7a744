"""The space of a search: which layouts there are, by the rules of resolve and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import builders
from meshwright.compose.sets import split_sets
from meshwright.errors import ConfigError
from meshwright.loading import load
from meshwright.resolver import layout, normalise, override, refusals
from meshwright.rules import POSITIVE, broken, rules_of
from meshwright.search.candidate import assignments, spec_of
from meshwright.search.proposals import splits
from meshwright.search.space import COLUMNS, command_line, space, variants
from meshwright.search.table import NEUTRAL, as_layout, enumerate_layouts, reads
from meshwright.spec import Spec
from meshwright.spec.model import Moe

MOE = builders.small_model(moe=Moe(experts=4, topk=2, ffn=256), transformers="mixtral")


def small(backend: str = "megatron", **changes: Any) -> Spec:
    spec = builders.spec(changes.pop("model", builders.small_model()), 8, global_batch=8)
    return override(replace(spec, **changes), "backend.name", backend)


def rows_of(spec: Spec, stated: dict[str, Any] | None = None) -> set[tuple[Any, ...]]:
    """Every layout of the space as a sorted tuple of assignments."""
    return {
        tuple(sorted(assignments(spec_of(v, {k: t[k][i] for k in t})).items()))
        for v in variants(space(spec, stated))
        for t in enumerate_layouts(v).chunks
        for i in range(len(t["tp"]))
    }


@pytest.mark.parametrize("backend", ["megatron", "deepspeed"])
@pytest.mark.parametrize("model", [builders.small_model(), MOE], ids=["dense", "experts"])
def test_it_holds_exactly_the_layouts_that_resolve_accepts(backend, model):
    base = small(backend, model=model)
    stated: dict[str, Any] = {"parallelism.pp": (1, 4), "parallelism.cp": (1, 2), "parallelism.vpp": (1, 2)}
    stated |= {"training.micro_batch": (1, 2), "parallelism.pipeline_split.first": (0,)}
    stated |= {"parallelism.recompute": ("none", "full"), "parallelism.sp": (backend == "megatron",)}
    accepted = set()
    (sp,), recomputes = stated["parallelism.sp"], stated["parallelism.recompute"]
    powers, experts = (1, 2, 4, 8), (1, 2, 4, 8) if model.moe else (1,)
    for tp, pp, vpp, cp, ep, etp, zero, batch, recompute in product(
        powers, (1, 4), (1, 2), (1, 2), experts, experts, range(4), (1, 2), recomputes
    ):
        if tp * cp * pp > 8 or ep * etp * pp > 8:
            continue
        degrees = dict(tp=tp, sp=sp, pp=pp, vpp=vpp, cp=cp, ep=ep, etp=etp, zero=zero, recompute=recompute)
        spec = replace(base, parallelism=replace(base.parallelism, **degrees))
        spec = override(spec, "training.micro_batch", batch)
        if not broken(layout(normalise(spec)), backend):
            accepted.add(tuple(sorted(assignments(normalise(spec)).items())))
    assert rows_of(base, stated) == accepted
    assert accepted


def test_every_proposed_layout_is_either_in_the_space_or_excluded_by_a_rule():
    for variant in variants(space(builders.spec(builders.small_model(), 16, global_batch=16))):
        layouts = enumerate_layouts(variant)
        valid = sum(len(chunk["tp"]) for chunk in layouts.chunks)
        assert valid + sum(e.points for e in layouts.excluded.values()) == layouts.points


def test_no_split_says_what_another_one_says():
    """Ends as long as a middle stage are an even split, whatever the chunks."""
    assert (20, 20, 0, 0) not in set(splits(80, 4, 2))
    for layers, pp, vpp in ((80, 4, 1), (80, 4, 2), (78, 4, 1), (126, 16, 8)):
        even = layers // pp
        assert (even, even, 0, 0) not in set(splits(layers, pp, vpp))


@pytest.mark.parametrize(
    ("path", "values"), [("cluster.gpus", (0, 8)), ("parallelism.pp", (-1,)), ("training.micro_batch", (0,))]
)
def test_a_count_that_is_none_is_refused_before_anything_is_proposed(path, values):
    with pytest.raises(ConfigError, match=f"{path}: {values[0]} is not a positive count"):
        space(small(), {path: values})


def test_a_later_word_wins_over_an_earlier_one():
    _, stated = split_sets({"cluster": {"gpus": [8, 16]}}, ["cluster.gpus=4", "cluster.gpus=[8,16]"])
    assert stated == {"cluster.gpus": (8, 16)}


COLUMN_VALUES = {
    **dict.fromkeys(("tp", "pp", "cp", "ep", "etp", "dp", "micro_batch"), st.sampled_from([1, 2, 3, 4, 8])),
    "vpp": st.integers(1, 3),
    "zero": st.integers(0, 3),
    **dict.fromkeys(("sp", "embedding", "loss"), st.integers(0, 1)),
    **dict.fromkeys(("first", "last"), st.integers(0, 3)),
}


@pytest.mark.parametrize("backend", ["megatron", "deepspeed"])
@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(COLUMN_VALUES), min_size=2, max_size=6), moe=st.booleans())
def test_a_rule_judges_an_array_of_layouts_as_it_judges_each_of_them(backend, rows, moe):
    base = normalise(small(backend, model=MOE if moe else builders.small_model()))
    columns = {name: np.array([row[name] for row in rows]) for name in NEUTRAL}
    for rule in (*POSITIVE, *rules_of(backend)):
        together = np.broadcast_to(np.asarray(rule.holds(as_layout(base, columns)), dtype=bool), len(rows))
        alone = []
        for row in rows:
            spec = base
            for path, name in COLUMNS.items():
                value = row[name]
                value = bool(value) if name in ("sp", "embedding", "loss") else value
                spec = override(spec, path, (value or None) if name in ("first", "last") else value)
            alone.append(bool(rule.holds(layout(spec))))
        assert together.tolist() == alone, rule.id


def test_watching_a_rule_tells_which_columns_it_reads():
    spec = normalise(small())
    by_id = {rule.id: reads(rule, spec) for rule in rules_of("megatron")}
    assert by_id["grid.world"] == {"tp", "cp", "pp"}
    assert by_id["tensor.heads"] == {"tp"}
    assert by_id["interleaved.group"] == {"vpp", "pp", "micro_batch", "dp"}


def test_a_layout_of_uneven_stages_is_in_the_space():
    """126 layers on 16 stages: no even split exists, 7 layers on the first and the last stage is one answer."""
    v = next(variants(space(builders.llama_405b(), {"parallelism.pp": (16,), "parallelism.vpp": (1,)})))
    ends = {(int(a), int(b)) for t in enumerate_layouts(v).chunks for a, b in zip(t["first"], t["last"], strict=True)}
    assert {(6, 8), (8, 6)} <= ends


def test_keys_of_the_command_line_are_pinned_or_sets_and_all_others_are_free():
    words = ["model=tiny", "cluster.gpus=8", "training.global_batch=8", "parallelism.tp=[1,2]", "parallelism.sp=false"]
    run, stated = command_line(words)
    asked = space(run.stages[0], stated)
    assert asked.stated == {"parallelism.tp": (1, 2), "parallelism.sp": (False,)}
    assert run.stages[0].parallelism.tp == 1
    tables = [t for v in variants(asked) for t in enumerate_layouts(v).chunks]
    assert {int(n) for t in tables for n in t["tp"]} == {1, 2}
    assert {int(n) for t in tables for n in t["sp"]} == {0}
    assert len({int(n) for t in tables for n in t["zero"]}) == 4


def test_a_recipe_layout_is_the_current_one_but_pins_nothing():
    run, stated = command_line(["recipe=llama3_405b"])
    asked = space(run.stages[0], stated)
    assert stated == {}
    assert asked.current.parallelism.tp == load(["recipe=llama3_405b"]).stages[0].parallelism.tp


def test_several_gpu_counts_are_a_set_one_is_none():
    composed = {"cluster": {"gpus": [8, 16]}, "parallelism": {"tp": 2}}
    plain, stated = split_sets(composed, ["cluster.gpus=[8,16]", "parallelism.tp=2"])
    assert plain["cluster"]["gpus"] == 8
    assert stated == {"cluster.gpus": (8, 16), "parallelism.tp": (2,)}
    assert split_sets({"cluster": {"gpus": 8}}, ["cluster.gpus=8"])[1] == {}
    worlds = {v.spec.cluster.gpus for v in variants(space(small(), {"cluster.gpus": (8, 16)}))}
    assert worlds == {8, 16}


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["parallelism.tp=[2,many]"], "parallelism.tp"),
        (["parallelism.recompute=[none,some]"], "parallelism.recompute"),
        (["training.global_batch=null"], "training.global_batch"),
    ],
)
def test_wrong_values_are_named(words, path):
    run, stated = command_line(["model=tiny", "cluster.gpus=8", "training.global_batch=8", *words])
    with pytest.raises(ConfigError) as caught:
        space(run.stages[0], stated)
    assert path in [problem.path for problem in caught.value.problems]


def test_a_found_layout_resolves():
    base = builders.spec(builders.small_model(), 16, global_batch=16)
    for variant in variants(space(base)):
        table = next(enumerate_layouts(variant).chunks)
        spec = spec_of(variant, {name: int(column[-1]) for name, column in table.items()})
        assert refusals(spec, "megatron") == []
