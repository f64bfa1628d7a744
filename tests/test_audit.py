"""The audit finds the errors that others ship, and none where the authors are right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.library import files as library
from meshwright.library.audit import audit
from meshwright.library.finding import Finding, contradictions, same_digits
from meshwright.library.recipe import Claim, Recipe
from meshwright.loading import load
from samples import sample


def findings(name: str, *overrides: str, recipe: Recipe | None = None) -> tuple[Finding, ...]:
    return audit(recipe or library.recipe(name), load([f"recipe={name}", *overrides]))


def wrong(name: str, *overrides: str, recipe: Recipe | None = None) -> dict[str, Finding]:
    return {finding.check: finding for finding in contradictions(findings(name, *overrides, recipe=recipe))}


def claiming(name: str, stage: str | None, metric: str, value: float) -> Recipe:
    recipe = library.recipe(name)
    claim = Claim(value=value, source="paper", where="planted")
    records = [
        replace(record, claims={**record.claims, metric: claim}) if record.stage == stage else record
        for record in recipe.records
    ]
    return replace(recipe, records=tuple(records))


def test_one_printing_of_llama_3_has_dp_4_in_the_third_row_of_table_4() -> None:
    found = wrong("llama3_405b", recipe=claiming("llama3_405b", "long_128k", "dp", 4))
    assert found["world"].message == "tp * cp * pp * dp = 8 * 16 * 16 * 4 = 8,192, on 16,384 GPUs"
    assert (found["dp"].claimed, found["dp"].computed) == (4, 8)
    assert not wrong("llama3_405b")


def test_olmo_7b_has_no_16_layers() -> None:
    found = wrong("olmo_7b", "model.layers=16")["parameters"]
    assert (found.claimed, found.computed) == (6.9e9, 3_650_093_056)


def test_llama_3_405b_has_no_16_kv_heads() -> None:
    found = wrong("llama3_405b", "model.kv_heads=16")["parameters"]
    assert found.computed == 410_081_247_232
    assert "claimed 405,000,000,000 and computed 410,081,247,232 contradict each other" in found.message


def test_no_one_trained_405b_on_78_trillion_tokens() -> None:
    steps = ["training.tokens=null", "training.steps=1168251", "training.global_batch=8192", "training.sequence=8192"]
    found = wrong("llama3_405b", "stage=gpus_16384", *steps)["total_tokens"]
    assert found.claimed == 15.6e12
    assert found.computed == pytest.approx(78.4e12, rel=1e-3)


def test_bloom_splits_70_layers_over_12_stages_embedding_and_head_included() -> None:
    assert 70 % 12  # a plain layers % pp rule refuses the published run
    assert not wrong("bloom_176b")


def test_a_batch_that_does_not_divide_is_a_finding_with_its_repairs() -> None:
    found = wrong("olmo_7b_mosaic", "training.global_batch=2048")["layout"]
    assert "2048" in found.message
    assert "216" in found.message


def test_gate_and_up_counted_together_is_found() -> None:
    assert "parameters" in wrong("gemma2_9b", "model.ffn=28672")


PUBLISHED_OTHERWISE = {
    "kimi_k2": {"parameters"},  # 1.04T in the report's Table 2, 1.026T by its own dimensions
    "pangu_ultra_135b": {"parameters"},  # 135B by its name, 133.9B by its own dimensions
    # The tables of the 26.04.01 container count 27.2 GFLOP a token, those since and our formula 32.6.
    **{f"nvidia_gpt_oss_120b_{gpu}": {"causal_tflops_per_gpu"} for gpu in ("h100", "b200", "b300", "gb200", "gb300")},
}


def agrees(name: str) -> None:
    recipe = library.recipe(name)
    found = {one.check for run in library.runs(name) for one in contradictions(audit(recipe, run))}
    assert found == PUBLISHED_OTHERWISE.get(name, set())


@pytest.mark.parametrize("name", sorted({*sample(library.names(), 100), *PUBLISHED_OTHERWISE}))
def test_the_library_agrees_with_its_publications(name: str) -> None:
    agrees(name)


@pytest.mark.slow  # every variant's cost
@pytest.mark.parametrize("name", library.names())
def test_the_whole_library_agrees_with_its_publications(name: str) -> None:
    agrees(name)


@pytest.mark.parametrize(("name", "mfu"), [("korthikanti_175b", 0.514), ("korthikanti_1t", 0.563)])
def test_published_mfu_is_recomputed_from_the_step_time(name: str, mfu: float) -> None:
    (found,) = [finding for finding in findings(name) if finding.check == "mfu"]
    assert found.computed == pytest.approx(mfu, abs=1e-3)
    assert "palm" in found.message


def test_nvidia_counts_attention_half_and_the_head_of_multi_token_prediction() -> None:
    found = [one for one in findings("nvidia_deepseek_v3_gb200", "variant=fp8_mx") if "causal" in one.check]
    assert [(one.stage, one.agrees) for one in found] == [("fp8_mx", True)]
    assert found[0].computed == pytest.approx(found[0].claimed, rel=0.03)


def test_gpu_hours_become_days_at_the_claimed_mfu() -> None:
    (found,) = [finding for finding in findings("llama3_405b") if finding.check == "gpu_hours"]
    assert found.agrees
    assert "days on" in found.message


def test_one_unit_of_the_last_printed_digit() -> None:
    assert same_digits(405e9, 405.85e9)
    assert not same_digits(405e9, 410e9)
    assert same_digits(0.41, 0.404)
    assert same_digits(2_614_341_888, 2_614_341_888)
    assert not same_digits(2_614_341_888, 2_614_341_890)
