"""``meshwright diff``: what differs in effect, what is equal though written otherwise, and the mark of each field."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import llama_405b
from meshwright.compare import Pair, Side, Stage, compare
from meshwright.compare.canonical import canonical
from meshwright.compare.fields import READ_ELSEWHERE, differences, written
from meshwright.errors import ConfigError
from meshwright.library import files as library
from meshwright.loading import load
from meshwright.report.diff import document
from meshwright.resolver import holds, override, resolve
from meshwright.spec import Spec
from meshwright.spec.effect import EFFECTS, effect_of, effect_of_flags
from test_emit_mutation import BASES, leaves, others

LLAMA = ["model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=16", "parallelism=zero1", "training.steps=100"]


def side(*specs: Spec) -> Side:
    return Side("one", tuple(Stage(one) for one in specs))


def pair(a: Spec, b: Spec) -> Pair:
    (found,) = compare(side(a), side(b)).pairs
    return found


def paths(a: Spec, b: Spec) -> dict[str, str]:
    return {one.path: one.effect for one in pair(a, b).fields}


def changed(*words: str) -> Spec:
    return load([*LLAMA, *words]).stages[0]


# --- the table of effects ---


def all_fields(cls: Any, path: str = "") -> Iterator[str]:
    """Every field of a dataclass and of those within it, parts left out."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        inner, here = hints[field.name], f"{path}.{field.name}".lstrip(".")
        plain = [a for a in get_args(inner) if a is not type(None)] if get_origin(inner) in UNIONS else [inner]
        if is_dataclass(plain[0]):
            yield from all_fields(plain[0], here)
        else:
            yield here


UNIONS = (Union, types.UnionType)


def test_every_field_of_a_spec_has_an_effect() -> None:
    known = set(all_fields(Spec))
    unmarked = {path for path in known if not any(path == row or path.startswith(f"{row}.") for row in EFFECTS)}
    assert unmarked == set()
    stale = {row for row in EFFECTS if not any(path == row or path.startswith(f"{row}.") for path in known)}
    assert stale == set()


@pytest.mark.parametrize(
    ("path", "effect"),
    [
        ("model.rope.base", "learned"),
        ("training.optimizer.lr", "learned"),
        ("training.micro_batch", "runs"),
        ("training.logging.save", "runs"),
        ("training.data.tokenizer.kind", "learned"),
        ("parallelism.pipeline_split.first", "runs"),
        ("cluster.efficiency.matmul", "described"),
        ("training.data", "learned"),  # the strongest of what it holds
        ("backend.deepspeed.offload_param.device", "runs"),
    ],
)
def test_the_effect_of_a_path(path: str, effect: str) -> None:
    assert effect_of(path) == effect


def test_flags_that_are_passed_through_are_suspected_unless_they_keep_house() -> None:
    assert effect_of_flags(["--log-params-norm"]) == "runs"
    assert effect_of_flags(["--ckpt-fully-parallel-load", "--qk-clip"]) == "learned"
    assert paths(changed(), changed("backend.megatron.extra=[--log-params-norm]")) == {"backend.megatron.extra": "runs"}


# --- equal though written otherwise ---


@pytest.mark.parametrize(
    "words",
    [
        ["parallelism.dp=16"],
        ["cluster.nodes=2"],
        ["training.global_batch=16"],
        ["training.microbatches=1"],
        [f"training.tokens={100 * 16 * 4096}"],
        ["training.steps=null", f"training.tokens={100 * 16 * 4096}"],
        ["training.schedule.decay_steps=100"],
        ["training.schedule.wsd_decay_style=cosine"],  # the style is cosine: there is no last phase
        ["training.optimizer.momentum=0.5"],
        ["backend.deepspeed.hpz=4"],
        ["backend.megatron.checkpoint_format=torch_dist"],
        ["backend.megatron.fsdp=torch"],
        ["cluster.nvlink_domain=8"],
        ["launch.slurm.partition=gpu"],
    ],
)
def test_written_otherwise_but_equal_in_effect(words: list[str]) -> None:
    found = pair(changed(), changed(*words))
    assert (found.fields, found.derived, found.emitted, found.predicted) == ((), (), (), ())


def test_a_full_recompute_layer_by_layer_is_what_full_means() -> None:
    explicit = ["parallelism.recompute_method=uniform", "parallelism.recompute_layers=1"]
    assert paths(changed("parallelism.recompute=full"), changed("parallelism.recompute=full", *explicit)) == {}


@pytest.fixture
def written_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[Spec], str | None]:
    """What is written for a Spec that was written before is as it was."""
    known: dict[str, str | None] = {}

    def remembered(one: Spec) -> str | None:
        key = repr(one)
        if key not in known:
            known[key] = written(one)
        return known[key]

    monkeypatch.setattr("meshwright.compare.fields.written", remembered)
    return remembered


@pytest.mark.parametrize("backend", BASES)
def test_a_field_differs_where_something_else_is_written(
    backend: str, written_once: Callable[[Spec], str | None]
) -> None:
    """Change every field in turn: fields differ if and only if files do, but for those that are read elsewhere."""
    for base in BASES[backend].values():
        one = replace(base, backend=replace(base.backend, name=backend))  # type: ignore[arg-type]
        before = canonical(resolve(one))
        for path, hint, value in leaves(one):
            for other in others(hint, value)[:1]:
                mutated = override(one, path, other)
                if path.startswith(READ_ELSEWHERE) or effect_of(path) == "described" or not resolves(mutated):
                    continue
                after = canonical(resolve(mutated))
                assert bool(differences(before, after)) == (written_once(before) != written_once(after)), path


# --- what differs ---


def test_each_difference_is_marked() -> None:
    found = paths(changed(), changed("training.optimizer.lr=1e-4", "parallelism.recompute=full", "name=other"))
    assert found == {
        "training.optimizer.lr": "learned",
        "parallelism.recompute": "runs",
        "parallelism.recompute_layers": "runs",
        "parallelism.recompute_method": "runs",
        "name": "described",
    }


def test_what_follows_is_shown_with_its_change() -> None:
    found = pair(changed(), changed("cluster.gpus=32", "training.global_batch=32"))
    derived = {one.name: (one.a, one.b) for one in found.derived}
    assert derived["world"] == (16, 32)
    assert derived["batch.tokens"] == (16 * 4096, 32 * 4096)
    predicted = {one.name: one for one in found.predicted}
    assert predicted["tokens_per_second"].change is not None
    assert predicted["memory_bytes.optimizer"].change == pytest.approx(-0.5, abs=0.01)


def test_flags_and_keys_that_are_written_differently() -> None:
    tp = pair(changed(), changed("parallelism.tp=2"))
    assert ("--tensor-model-parallel-size", None, "2") in [(one.name, one.a, one.b) for one in tp.emitted]
    zero = pair(changed("backend=deepspeed"), changed("backend=deepspeed", "parallelism.zero=2"))
    assert ("ds_config.json: zero_optimization.stage", 1, 2) in [(one.name, one.a, one.b) for one in zero.emitted]


def test_a_backend_that_refuses_one_side_says_so() -> None:
    found = pair(changed("backend=deepspeed"), changed("parallelism.pp=2"))
    refused = next(one for one in found.emitted if one.name == "deepspeed refuses")
    assert refused.a is None
    assert str(refused.b).startswith("parallelism.pp: pp = 2")


def test_stages_are_paired_by_name_else_in_order() -> None:
    run = load(["recipe=llama3_405b"]).stages
    whole, some = side(*run), side(run[4], run[1])
    by_name = compare(whole, some)
    assert [(p.a.spec.stage, p.b.spec.stage) for p in by_name.pairs] == [(s.stage, s.stage) for s in (run[1], run[4])]
    assert len(by_name.only_a) == len(run) - 2
    in_order = compare(side(changed()), whole)
    assert [p.b.spec.stage for p in in_order.pairs] == [run[0].stage]
    assert len(in_order.only_b) == in_order.count("learned") - learned(in_order.pairs[0])


def learned(found: Pair) -> int:
    return sum(one.effect == "learned" for one in found.fields)


@pytest.mark.parametrize("name", ["llama3_405b", "apertus_70b"])
def test_neighbouring_stages_of_a_recipe_differ_and_each_equals_itself(name: str) -> None:
    run = library.run(name).stages
    for before, after in pairwise(run):
        assert paths(before, before) == {}
        assert paths(before, after).keys() - {"stage"}


# --- on any Spec ---


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    one = draw(st.sampled_from([base for bases in BASES.values() for base in bases.values()] + [llama_405b()]))
    for _ in range(draw(st.integers(0, 4))):
        path, hint, value = draw(st.sampled_from(list(leaves(one))))
        candidates = others(hint, value)
        if candidates:
            one = override(one, path, draw(st.sampled_from(candidates)))
    return one


def resolves(candidate: Spec) -> bool:
    try:
        return holds(candidate, candidate.backend.name)
    except (ConfigError, ArithmeticError):
        return False


@settings(max_examples=25, deadline=None)
@given(specs().filter(resolves))
def test_nothing_differs_from_itself(one: Spec) -> None:
    found = compare(side(one), side(one))
    (same,) = found.pairs
    assert (same.fields, same.derived, same.emitted, same.predicted) == ((), (), (), ())
    assert document(found)["differences"] == {"learned": 0, "runs": 0, "described": 0}


@settings(max_examples=15, deadline=None)
@given(specs().filter(resolves), specs().filter(resolves))
def test_the_other_way_round_is_the_same_with_sides_exchanged(a: Spec, b: Spec) -> None:
    forth, back = pair(a, b), pair(b, a)
    assert {(d.path, repr(d.a), repr(d.b), d.effect) for d in forth.fields} == {
        (d.path, repr(d.b), repr(d.a), d.effect) for d in back.fields
    }
    for part in ("derived", "emitted", "predicted"):
        assert {(n.name, repr(n.a), repr(n.b)) for n in getattr(forth, part)} == {
            (n.name, repr(n.b), repr(n.a)) for n in getattr(back, part)
        }


@settings(max_examples=6, deadline=None)
@given(specs().filter(resolves), specs().filter(resolves))
def test_where_no_field_differs_nothing_else_does(a: Spec, b: Spec) -> None:
    found = pair(a, b)
    if not found.fields:
        assert (found.emitted, found.derived, found.predicted) == ((), (), ())
