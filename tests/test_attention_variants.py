"""Attention and feed-forward variants: what says them to Megatron, that it builds them, and what it cannot run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.emit.megatron import flags
from meshwright.imports.megatron import of_flags
from meshwright.loading import load
from meshwright.resolver import override, refusals, resolve
from meshwright.spec import Spec
from read_back import differences, plan_of, words_of


def of(name: str, *words: str) -> Spec:
    """A model on 8 GPUs, two of them for each tensor."""
    layout = ("cluster.gpus=8", "parallelism.tp=2", "parallelism.sp=true", "parallelism.zero=1", "backend=megatron")
    (spec,) = load([f"model={name}", "training.sequence=4096", *layout, *words]).stages
    return spec


UNSAID = {
    *("model.attention_chunk", "model.query_growth", "model.query_growth_from"),  # a sequence is within one chunk
    "model.moe.normalize_topk",  # a sigmoid over one expert is not normalised
}
SAID = {
    "gpt_oss_20b": (
        *("--softmax-type learnable", "--quick-geglu", "--activation-func-clamp-value 7.0", "--glu-linear-offset 1.0"),
        *("--position-embedding-type yarn", "--no-yarn-correction-range-round-to-int", "--window-size (127,0)"),
    ),
    "llama4_scout_109b": (
        *("--qk-l2-norm", "--no-rope-freq 4", "--moe-apply-probs-on-input", "--moe-router-score-function sigmoid"),
        "--spec meshwright.train.layers llama3_stretch=1.0:1.0:8192,qk_norm=l2",
    ),
    "olmo3_7b": ("--spec meshwright.train.layers local_base=500000.0,norms=output,qk_norm=full",),
    "granite3_3_8b": (
        *("--mup-embedding-mult 12.0", "--mup-output-mult 0.0625"),
        "--spec meshwright.train.layers residual_scale=0.22",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_megatron_is_told(name: str) -> None:
    words = " ".join(flags(resolve(of(name))))
    assert [said for said in SAID[name] if said not in words] == []


@pytest.mark.parametrize("name", SAID)
def test_what_megatron_is_told_is_read_back(name: str) -> None:
    plan = resolve(of(name))
    again = plan_of(of_flags(words_of(*flags(plan)), "args", plan.grid.world), plan.spec)
    assert flags(again) == flags(plan)
    assert {path for path in differences(plan, again) if path.startswith("model.")} <= UNSAID


def test_megatron_builds_them_cut_over_two_gpus() -> None:
    """Sinks and the norm of all heads are cut with the heads; biases of experts are not."""
    pytest.importorskip("megatron.core")
    from meshwright.verify import verify

    verdicts = verify([resolve(of("gpt_oss_20b", "parallelism.ep=2")), resolve(of("olmo3_7b"))])
    checks = [check for several in verdicts for verdict in several for check in verdict.checks]
    assert [check.details for check in checks if not check.passed] == []
    assert {check.name for check in checks} >= {"parsed", "built"}


@pytest.mark.parametrize(
    ("length", "rules"), [(4096, []), (8192, ["megatron.query_growth"]), (16384, ["megatron.chunk"])]
)
def test_llama_4_is_not_trained_beyond_its_chunk(length: int, rules: list[str]) -> None:
    found = refusals(override(of("llama4_scout_109b"), "training.sequence", length), "megatron")
    assert [problem.rule for problem in found][: len(rules)] == rules
    assert all(repair.get("training.sequence") != length for problem in found for repair in problem.repairs)


def test_growing_queries_are_two_numbers() -> None:
    spec = of("llama3_8b")
    half = replace(spec, model=replace(spec.model, query_growth=0.1))
    assert [problem.rule for problem in refusals(half, "megatron")] == ["value.growth"]
