"""Our error on the step times of the measured rows that ship with the package, held to bars."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median

import pytest

from measured_rows import ROWS, judged, judged_and_skipped, of
from meshwright.cost.estimate import estimate
from meshwright.cost.framework import framework_of
from meshwright.library import files as library
from meshwright.measured.calibrate import predict_times, scenes
from meshwright.measured.rows import cluster_named, read
from meshwright.measured.validate import document, kendall
from meshwright.resolver import layout, normalise


def time_errors(source: str) -> list[float]:
    return [abs(j.step_time / j.measured_time - 1) for j in of(source) if j.measured_time]


def test_korthikanti_is_met_by_constants_fitted_elsewhere() -> None:
    """No fit sees them (docs/accuracy.md says what they did settle). Best other: mean 3.65 %, largest 8.9 %."""
    errors = time_errors("korthikanti2022")  # Table 5's eight: 3.4 %; with the ninth, on 2,240 GPUs: 3.1 %
    assert mean(errors) <= 0.035
    assert max(errors) <= 0.08


def test_llama_3_405b_is_near_the_paper() -> None:
    """430 TFLOP/s on 8,192 GPUs (Table 4), full attention counted: +5.0 %.

    No fit sees it; it did choose among three sets of constants.
    """
    (row,) = [j for j in of("llama3_paper") if j.row.spec.cluster.gpus == 8192]
    flops = (6 * 405.85e9 + 12 * 126 * 16384 * 8192) * 2048 * 8192
    assert flops / row.step_time / 8192 == pytest.approx(430e12, rel=0.055)


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("vtrain-multi", 0.10),
        ("vtrain-single", 0.12),
        ("simumax-b200", 0.032),
        ("torchtitan", 0.062),
        ("hagemann2023", 0.08),
        ("llm-foundry", 0.08),
        ("bigscience", 0.08),
        ("nvidia-dgxc-benchmarking", 0.04),
        ("nvidia-nemo-docs", 0.055),
    ],
)
def test_mean_error_of_step_time(source: str, limit: float) -> None:
    assert mean(time_errors(source)) <= limit


def test_the_document_lists_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    records, known = read(ROWS), judged_and_skipped()
    monkeypatch.setattr("meshwright.measured.validate.judge_rows", lambda *_: known)
    result = document((), ())
    told = [row["row_id"] for row in result["rows"]] + [skip["row_id"] for skip in result["skipped"]]
    assert sorted(told) == sorted(record["row_id"] for record in records)
    assert all(skip["reason"] for skip in result["skipped"])


def test_kendall() -> None:
    assert kendall([(1, 1), (2, 2), (3, 3)]) == 1
    assert kendall([(1, 3), (2, 2), (3, 1)]) == -1
    assert kendall([(1, 1), (1, 2)]) == 0


def test_megatrons_own_fp8_examples_are_met_by_constants_fitted_elsewhere() -> None:
    """No fit sees them: gradients of 16 bits, 8-bit weights, delayed scales (train_llama3_8b_h100_fp8.sh)."""
    assert {j.row.spec.training.precision for j in of("megatron_llama_fp8")} == {"fp8_delayed"}
    assert max(time_errors("megatron_llama_fp8")) <= 0.04


def test_mixtures_of_dgx_cloud_are_met_by_the_host_of_their_time() -> None:
    """On GB200 by ``launch_us`` from Megatron's own log, which did not look at them."""
    errors = [
        abs(j.step_time / j.measured_time - 1)
        for j in of("nvidia-dgxc-benchmarking")
        if j.row.measured["model"] == "deepseek-v3" and j.measured_time
    ]
    assert median(errors) <= 0.10
    assert max(errors) <= 0.20


HELD_OUT = {
    "nvidia-megatron-bridge llama3.1-405b": (0.05, 0.13),
    "nvidia-megatron-bridge kimi-k2": (0.08, 0.12),
    "nvidia-megatron-bridge qwen3-30b-a3b": (0.09, 0.33),
    "nvidia-megatron-bridge qwen3-235b-a22b": (0.115, 0.36),
    "nvidia-megatron-bridge nemotron-3-super-120b": (0.08, 0.15),
    # 3.7 and 7.2 % before its rows were read as its recipes have them: two errors had met
    "nvidia-megatron-bridge nemotron-3-ultra-550b": (0.07, 0.10),
    "nvidia-megatron-bridge nemotron-3-nano-30b-a3b": (0.05, 0.18),
    "nvidia-bridge-cards moonlight-16b-a3b": (0.11, 0.15),
    "nvidia-bridge-cards nemotron-3-nano-30b-a3b": (0.10, 0.21),
    "nvidia-bridge-cards nemotron-3-super-120b": (0.07, 0.08),
    "nvidia-bridge-cards llama3-70b": (0.03, 0.16),
    "nvidia-bridge-cards qwen3-30b-a3b": (0.12, 0.35),
    "nvidia-bridge-cards qwen3-235b-a22b": (0.08, 0.08),
    "nvidia-bridge-cards deepseek-v3": (0.05, 0.07),
    "nvidia-bridge-cards gpt-oss-20b": (0.08, 0.10),
    "nvidia-dgxc-benchmarking llama3.1-405b": (0.04, 0.10),
    "nvidia-dgxc-benchmarking nemotron4-15b": (0.03, 0.05),
    "nvidia-dgxc-benchmarking grok1-314b": (0.06, 0.13),
    "nvidia-dgxc-benchmarking llama4-maverick": (0.13, 0.25),
}


def test_rows_of_dgx_cloud_that_a_fit_has_seen() -> None:
    """Its first 124: a median of 2.7 % until it was known which of them had run FlashAttention-2 (``released``)."""
    errors = [
        abs(j.step_time / j.measured_time - 1)
        for j in of("nvidia-dgxc-benchmarking")
        if j.row.group not in HELD_OUT and j.measured_time
    ]
    assert len(errors) == 124
    assert median(errors) <= 0.026
    assert mean(errors) <= 0.031


def assert_within(errors: list[float], bars: tuple[float, float]) -> None:
    """Median and ninth of ten."""
    ninth = sorted(errors)[min(len(errors) - 1, int(0.9 * len(errors)))]
    assert median(errors) <= bars[0]
    assert ninth <= bars[1]


@pytest.mark.parametrize(("group", "bars"), HELD_OUT.items())
def test_groups_that_no_fit_has_seen(group: str, bars: tuple[float, float]) -> None:
    """Median and ninth of ten; docs/accuracy.md says what they were before anything was mended."""
    assert_within(
        [abs(j.step_time / j.measured_time - 1) for j in judged() if j.row.group == group and j.measured_time], bars
    )


STRANGERS = {
    "megatron-moe-modelzoo": (0.10, 0.48),
    "xtuner-megatron-moe": (0.07, 0.23),
    "internevo": (0.12, 0.22),
    "fms-fsdp": (0.10, 0.22),
    "prime-rl": (0.19, 0.41),
    "kempnerforge": (0.16, 0.42),
    "xtuner": (0.26, 0.44),
}


@pytest.mark.parametrize(("source", "bars"), STRANGERS.items())
def test_rows_of_strangers_by_their_frameworks(source: str, bars: tuple[float, float]) -> None:
    """Median and ninth of ten of sources that have no practice of their own; the same as above."""
    assert_within(time_errors(source), bars)


def test_automodel_is_met_by_the_cluster_s_constants() -> None:
    """Its code of the month of each row, and PyTorch's, on the constants of NVIDIA's H100; Ultra is new to it."""
    errors = time_errors("nvidia-automodel")
    *looked_into, ultra = sorted(errors)
    assert median(errors) <= 0.09
    assert max(looked_into) <= 0.13
    assert ultra <= 0.19


def test_a_fit_sees_the_times_that_a_prediction_gives() -> None:
    rows = [j.row for j in of("megatron_dsv3_gb200")]
    assert predict_times(scenes(rows), len(rows)) == pytest.approx([j.step_time for j in of("megatron_dsv3_gb200")])


def kept_out(source: str) -> list[float]:
    """Sizes of the errors of a source's groups, each predicted by constants fitted without it."""
    noted = json.loads((Path(__file__).parents[1] / "docs" / "left_out.json").read_text())
    groups = (item for machine in noted.values() for item in machine.items())
    return sorted(abs(error) for group, errors in groups if group.split()[0] == source for error in errors)


def test_megatron_bridge_is_met_by_constants_that_did_not_see_it() -> None:
    errors = kept_out("nvidia-megatron-bridge")
    assert len(errors) > 90
    assert median(errors) <= 0.08
    assert errors[int(0.9 * len(errors))] <= 0.20


def test_a_release_may_have_a_host_of_its_own() -> None:
    """From step 7 on the log binds processes to CPUs; before, and elsewhere, its source's constants hold."""
    launch = {j.row.measured["release"]: j.row.spec.cluster.efficiency.launch_us for j in of("megatron_dsv3_gb200")}
    assert launch["step 1"] == launch["step 6"] == 38
    assert launch["step 7"] == launch["step 9"] == cluster_named("gb200_nvl72").efficiency.launch_us


@pytest.mark.parametrize(
    "name",
    [
        "torchtitan_llama3_8b",
        "torchtitan_llama3_70b",
        "torchtitan_llama3_405b",
        "torchtitan_llama3_405b_256k",
        "bloomberggpt_50b",
    ],
)
def test_recipes_take_as_long_as_was_published(name: str) -> None:
    """No fit has seen them, but for the first: torchtitan's pipelines and nodes, SageMaker's links."""
    found, claims = layout(normalise(library.run(name).stages[0])), library.recipe(name).records[0].claims
    tokens = (found.training.global_batch or 0) * found.training.sequence / (found.cluster.gpus or 1)
    rate = claims["tokens_per_s_per_gpu"].value if "tokens_per_s_per_gpu" in claims else 0
    published = tokens / rate if rate else claims["step_seconds"].value
    assert estimate(found, framework_of(found)).step_time == pytest.approx(published, rel=0.15)
