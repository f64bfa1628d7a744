"""The library: every value has a source, every recipe composes, decodes and resolves, nothing it states is lost."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import pytest

from meshwright.cli import main
from meshwright.compose import Listing, compose, run_of
from meshwright.errors import ConfigError
from meshwright.library import files as library
from meshwright.library import published
from meshwright.library.recipe import Recipe, Record, leaves, provenance_of
from meshwright.library.traits import listed, traits
from meshwright.loading import load
from meshwright.resolver import refusals, resolve
from samples import VARIANTS, sample

NAMES = library.names()
DEGREES = [f"parallelism.{name}" for name in ("tp", "pp", "vpp", "cp", "ep", "etp")]
COUNTS = ["cluster.gpus", "training.global_batch"]


def publication(name: str) -> str:
    """The paper a recipe is from, or the repository where there is no paper."""
    source = next(iter(library.recipe(name).about.sources.values()))
    return source.url or source.ref.partition("@")[0].partition(":")[0]


def disclosed(record: Record, paths: list[str], needed: bool) -> bool:
    """Whether all ``paths`` are published or derived; those that are not stated count when they are not needed."""
    entries = [provenance_of(path, record.provenance) for path in paths if needed or path in record.values]
    return all(entry is not None and entry.status in ("published", "derived") for entry in entries)


def test_at_least_150_recipes_from_at_least_55_publications() -> None:
    assert len(NAMES) >= 150
    assert len(set(map(publication, NAMES))) >= 55


def test_at_least_40_disclose_every_degree_the_gpus_and_the_batch_in_every_stage() -> None:
    def whole(name: str) -> bool:
        first, *stages = library.recipe(name).records
        required = ["parallelism.tp", "parallelism.pp", "parallelism.cp", "parallelism.ep", *COUNTS]
        stated = all(disclosed(record, [*DEGREES, *COUNTS], needed=False) for record in (first, *stages))
        return stated and disclosed(first, required, needed=True)

    assert sum(map(whole, NAMES)) >= 40


def composes_the_same(name: str, variant: str | None) -> None:
    words = [f"recipe={name}", *([f"variant={variant}"] if variant else [])]
    composed = compose(words)
    assert {**library.composed(name), "variant": variant} == composed
    assert run_of(composed, words) == library.run(name, variant)


@pytest.mark.parametrize(("name", "variant"), sample(VARIANTS, 40))
def test_hydra_and_the_library_compose_the_same(name: str, variant: str | None) -> None:
    composes_the_same(name, variant)


@pytest.mark.slow  # Hydra takes a fifth of a second each
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_hydra_and_the_library_compose_all_the_same(name: str, variant: str | None) -> None:
    composes_the_same(name, variant)


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_provenance_and_survives_composition(name: str) -> None:
    recipe = library.recipe(name)
    assert sum(library.statuses(recipe).values()) == sum(len(record.values) for record in recipe.records)
    first = recipe.records[0]
    for spec in (stage for run in library.runs(name) for stage in run.stages):
        described, values = asdict(spec), dict(first.values)
        for kind in ("variant", "stage"):
            values |= record_of(recipe, kind, getattr(spec, kind)).values if getattr(spec, kind) else {}
        for path, value in values.items():
            if "." in path:
                assert plain(at(described, path)) == plain(value), f"{name} {spec.stage} {path}"
        assert spec.model.name == first.values["model"]
        assert spec.cluster.name == first.values["cluster"]


def record_of(recipe: Recipe, kind: str, name: str | None) -> Record:
    """The record of a variant or stage; the run's own where there is none."""
    return next((record for record in recipe.records if name and getattr(record, kind) == name), recipe.records[0])


def at(data: Any, path: str) -> Any:
    for key in path.split("."):
        data = data[key]
    return data


def plain(value: Any) -> Any:
    """Tuples as lists, and mappings without what only defaults add."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def resolves(name: str) -> None:
    for spec in (stage for run in library.runs(name) for stage in run.stages):
        plan = resolve(spec)
        assert plan.steps is not None or spec.training.tokens is None
        assert not refusals(spec, spec.backend.name)


@pytest.mark.parametrize("name", sample(NAMES, 120))
def test_every_stage_resolves_for_the_backend_it_names(name: str) -> None:
    resolves(name)


@pytest.mark.slow  # every stage of every variant
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_all_resolves_for_the_backend_it_names(name: str) -> None:
    resolves(name)


def test_the_sketch_says_so_before_anything_else() -> None:
    path = library._conf().joinpath("recipe", "yi_lightning.yaml")
    header, first, *_ = path.read_text("utf-8").splitlines()
    assert header == "# @package _global_"  # Hydra wants it first
    assert first.startswith("# A SKETCH")
    assert library.disclosure(library.recipe("yi_lightning")) == "sketch"


def test_hyperparameters_that_no_source_states_are_listed_as_ours() -> None:
    gemma = library.unstated(library.recipe("gemma2_27b"), library.run("gemma2_27b"))
    assert gemma["training.optimizer.lr"] == 3e-4
    llama = library.unstated(library.recipe("llama3_405b"), library.run("llama3_405b"))
    assert "training.optimizer.lr" not in llama


def test_what_cannot_be_realised_keeps_what_was_published() -> None:
    record = library.recipe("llama3_405b").records[0]
    zero = record.provenance["parallelism.zero"]
    assert (record.values["parallelism.zero"], zero.published) == (1, 2)
    assert "ZeRO-1" in str(zero.why)


def test_stages_override_values_and_the_command_line_wins() -> None:
    stages = {spec.stage: spec for spec in load(["recipe=llama3_405b"]).stages}
    assert [stages[s].cluster.gpus for s in ("ramp_4m", "gpus_16384", "long_128k")] == [8192, 16384, 16384]
    assert [stages[s].parallelism.cp for s in ("gpus_16384", "long_128k")] == [1, 16]
    (one,) = load(["recipe=llama3_405b", "stage=long_128k", "stages.long_128k.parallelism.cp=8"]).stages
    assert one.parallelism.cp == 8
    assert {spec.parallelism.tp for spec in load(["recipe=llama3_405b", "parallelism.tp=4"]).stages} == {4}


GOOD: dict[str, Any] = {
    "defaults": [{"override /model": "tiny"}],
    "about": {"title": "t", "authors_framework": "f", "sources": {"paper": {"ref": "A Paper"}}},
    "parallelism": {"tp": 8},
    "provenance": {
        "model": {"status": "ours", "why": "small"},
        "parallelism": {"status": "published", "source": "paper", "where": "Table 1"},
    },
}


def broken(path: str, value: Any) -> dict[str, Any]:
    data = deepcopy(GOOD)
    *above, last = path.split("/")
    target = data
    for key in above:
        target = target.setdefault(key, {})
    target[last] = value
    return data


def test_a_recipe_reads_and_a_mapping_may_share_one_source() -> None:
    recipe = Recipe.read("r", GOOD)
    assert library.statuses(recipe) == {"published": 1, "derived": 0, "inferred": 0, "ours": 1}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("cluster/gpus", 8, "r.cluster.gpus: has no provenance"),
        ("provenance/model", {"status": "guessed"}, "expected one of published, derived, inferred, ours"),
        ("provenance/model", {"status": "inferred"}, "inferred: why?"),
        ("provenance/parallelism", {"status": "published", "source": "paper"}, "published by whom, and where?"),
        ("provenance/parallelism/source", "paper2", "source 'paper2' is not in about.sources"),
        ("provenance/parallelism/published", 4, "why is it not realised so?"),
        ("provenance/training.sequence", {"status": "ours", "why": "x"}, "belongs to no value of this recipe"),
        ("about/claims", {"speed": {"value": 1.0, "source": "paper", "where": "p"}}, "unknown; known are"),
        ("about/claims", {"mfu": {"value": 0.4, "source": "blog", "where": "p"}}, "source 'blog' is not in"),
    ],
)
def test_a_value_without_a_source_is_refused(path: str, value: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        Recipe.read("r", broken(path, value))
    assert problem in str(error.value)


def test_a_run_with_stages_claims_a_layout_where_it_has_it() -> None:
    data = broken("about/claims", {"mfu": {"value": 0.4, "source": "paper", "where": "p"}})
    with pytest.raises(ConfigError, match="claim it in the stage or variant that has it"):
        Recipe.read("r", data | {"stages": {"one": {}}})


def test_variants_are_records_with_claims_of_their_own() -> None:
    mfu = {"mfu": {"value": 0.4, "source": "paper", "where": "p"}}
    narrow = {"parallelism": {"tp": 4}, "provenance": {"parallelism": {"status": "ours", "why": "x"}}}
    recipe = Recipe.read("r", GOOD | {"variants": {"wide": {"about": {"claims": mfu}}, "narrow": narrow}})
    assert recipe.variants == ("wide", "narrow")
    assert [(record.variant, dict(record.values)) for record in recipe.records[1:]] == [
        ("wide", {}),
        ("narrow", {"parallelism.tp": 4}),
    ]
    with pytest.raises(ConfigError, match="claim it in the stage or variant that has it"):
        Recipe.read("r", broken("about/claims", mfu) | {"variants": {"wide": {}}})


def test_recipes_are_found_by_what_they_have() -> None:
    known = {name: traits(library.recipe(name), library.runs(name)) for name in NAMES}
    assert "megascale_175b_256" in listed(known, Listing(gpu="A100", model="dense", technique="pp"))
    for name in listed(known, Listing(gpu="NVIDIA H100 80GB HBM3", model="moe", published="full")):
        (spec, *_) = library.run(name).stages
        assert (spec.model.moe is not None, spec.cluster.name) == (True, "dgx_h100")
        assert library.disclosure(library.recipe(name)) == "full"
    assert "llama3_405b" in listed(known, Listing(technique="long"))
    assert listed(known, Listing(model="MoE", technique="FP8")) == listed(known, Listing(model="moe", technique="fp8"))
    assert "kimi_k2" in listed(known, Listing(model="Kimi-K2"))
    with pytest.raises(ConfigError, match=r"recipes\.technique: no recipe has 'foo'; there are bf16, cp"):
        listed(known, Listing(technique="foo"))


def test_leaves_are_dotted_paths() -> None:
    assert dict(leaves({"a": {"b": 1, "c": {}}, "d": [2]})) == {"a.b": 1, "a.c": {}, "d": [2]}


def test_what_an_authors_trainer_does_without_is_said_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    """It names stages or variants of its recipe, has its arithmetic, and stands beside our own verdict."""
    spared = {name: said for name in NAMES if (said := library.recipe(name).about.spared)}
    assert "llama3_405b" in spared
    for name, said in spared.items():
        parts = {record.stage or record.variant for record in library.recipe(name).records}
        assert all(one.gib > 0 and one.why and {*one.of} <= parts for one in said), name
    run = library.run("deepseek_v3")
    assert [bool(published.spared(run, spec)) for spec in run.stages] == [True, False, False]
    main(["plan", "recipe=deepseek_v3"])
    printed = capsys.readouterr().out
    assert printed.count("the authors' trainer") == 1
    assert "the authors' trainer in pretrain: 62.1 GiB less" in printed
