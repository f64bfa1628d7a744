"""Recipes compiled, parsed and built by their backends' own code; the count and the time are printed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from meshwright.layout.plan import Plan
from meshwright.library import files as library
from meshwright.resolver import resolve
from meshwright.verify import Verdict, verify
from proofs import MARKS, PAGE
from samples import VARIANTS, sample


def largest_stage(name: str, variant: str | None = None) -> Plan:
    return max(map(resolve, library.run(name, variant).stages), key=lambda plan: plan.grid.world)


def failures(plans: Iterable[Plan], verdicts: Iterable[tuple[Verdict, ...]]) -> list[str]:
    """One line for each check that failed, and for each plan that no backend could judge."""
    lines = []
    for plan, judged in zip(plans, verdicts, strict=True):
        where = f"{plan.spec.name}/{plan.spec.stage or ''}"
        lines += [] if judged else [f"{where}: no backend"]
        for verdict in judged:
            wrong = [check for check in verdict.checks if not check.passed]
            lines += [f"{where} {verdict.backend} {check.name}: {check.details}" for check in wrong]
    return lines


def proven(judged: tuple[Verdict, ...]) -> dict[str, list[str]]:
    """Which backends passed which check."""
    steps: dict[str, list[str]] = {}
    for verdict in judged:
        for check in verdict.checks:
            if check.passed:
                steps.setdefault(check.name, []).append(MARKS[verdict.backend])
    return steps


def merged(before: Mapping[str, Any], now: Mapping[str, Mapping[str, list[str]]]) -> dict[str, Any]:
    """What is proven now, with what only other tests can prove (scheduled, run) as it was."""
    kept = ("scheduled", "run", "rehearsal")
    return {
        name: {**steps, **{step: before[name][step] for step in kept if step in before.get(name, {})}}
        for name, steps in now.items()
    }


def test_a_sample_of_the_library_is_parsed_and_built(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("megatron.core")
    pytest.importorskip("deepspeed")
    started = time.monotonic()
    plans = [largest_stage(*one) for one in sample(VARIANTS, SAMPLE)]
    assert not failures(plans, verify(plans))
    with capsys.disabled():
        print(f"\n{len(plans)} recipes parsed and built in {time.monotonic() - started:.0f} s")


SAMPLE = 20


@pytest.mark.slow  # a second each
def test_every_recipe_is_parsed_and_built(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("megatron.core")
    pytest.importorskip("deepspeed")
    plans = [largest_stage(name) for name in library.names()]
    verdicts = verify(plans)
    assert not failures(plans, verdicts)
    if request.config.getoption("--regenerate"):
        before = json.loads(PAGE.read_text("utf-8"))["recipes"] if PAGE.exists() else {}
        versions = dict(
            sorted({(k, v) for judged in verdicts for verdict in judged for k, v in verdict.versions.items()})
        )
        now = {plan.spec.name: proven(judged) for plan, judged in zip(plans, verdicts, strict=True)}
        PAGE.write_text(json.dumps({"versions": versions, "recipes": merged(before, now)}, indent=1) + "\n", "utf-8")


@pytest.mark.slow  # every stage of every variant of every recipe: minutes
def test_every_stage_of_every_variant_is_parsed_and_built() -> None:
    pytest.importorskip("megatron.core")
    pytest.importorskip("deepspeed")
    plans = [resolve(spec) for one in VARIANTS for spec in library.run(*one).stages]
    assert not failures(plans, verify(plans))
