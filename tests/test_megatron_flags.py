"""What ``backend.megatron.extra`` may not say: every flag that a plan emits is a key's, every flag listed is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builders import small_model, spec
from meshwright.emit import megatron
from meshwright.library import files as library
from meshwright.resolver import override, refusals, resolve
from meshwright.rules.megatron_flags import FREE, KEYS, contradictions


def test_every_flag_that_a_recipe_emits_has_its_key() -> None:
    emitted: set[str] = set()
    for name in library.names():
        stages = [stage for stage in library.run(name).stages if not refusals(stage, "megatron")]
        plans = [resolve(override(stage, "backend.megatron.extra", ())) for stage in stages]
        emitted |= {word for plan in plans for word in megatron.flags(plan) if word.startswith("--")}
    assert len(emitted) > 100
    assert emitted - KEYS.keys() - FREE == set()


def test_every_flag_in_the_emitters_text_has_its_key() -> None:
    text = "".join(path.read_text() for path in Path(megatron.__file__).parent.glob("megatron*.py"))
    named = set(re.findall(r'"(--[a-z0-9-]*[a-z0-9])"', text))
    assert named - KEYS.keys() - FREE == set()


def test_every_flag_listed_is_megatrons() -> None:
    pytest.importorskip("megatron.training")
    from argparse import ArgumentParser

    from megatron.training.arguments import add_megatron_arguments

    parser = add_megatron_arguments(ArgumentParser(allow_abbrev=False))
    assert KEYS.keys() - parser._option_string_actions.keys() == set()
    assert FREE - parser._option_string_actions.keys() == set()


@pytest.mark.parametrize(
    "flag",
    ["--micro-batch-size=2", "--num-virtual-stages-per-pipeline-rank=2", "--adam-beta1=0.8", "--enable-ft-package"],
)
def test_what_the_plan_decides_is_refused_with_its_key(flag: str) -> None:
    (problem,) = refusals(override(spec(small_model(), 8), "backend.megatron.extra", (flag,)), "megatron")
    assert f"{flag.split('=')[0]} is {KEYS[flag.split('=')[0]]}, which the plan itself decides" in str(problem)


def test_megatrons_report_of_slow_ranks_is_emitted_and_parsed() -> None:
    pytest.importorskip("megatron.training")
    from argparse import ArgumentParser

    from megatron.training.arguments import add_megatron_arguments

    extra = ("--log-straggler", "--straggler-minmax-count=4", "--disable-straggler-on-startup")
    words = megatron.flags(resolve(override(spec(small_model(), 8), "backend.megatron.extra", extra)))
    told = add_megatron_arguments(ArgumentParser(allow_abbrev=False)).parse_args(list(words))
    assert (told.log_straggler, told.straggler_minmax_count, told.disable_straggler_on_startup) == (True, 4, True)


def test_our_program_does_not_restart_within_its_process() -> None:
    asked = override(spec(small_model(), 8), "backend.megatron.extra", ("--inprocess-restart", "--log-params-norm"))
    (problem,) = refusals(asked, "megatron")
    assert "--inprocess-restart is for a program that wraps itself" in str(problem)
    assert [dict(repair) for repair in problem.repairs] == [{"backend.megatron.extra": ("--log-params-norm",)}]


def test_megatron_lms_own_program_restarts_within_its_process() -> None:
    asked = override(spec(small_model(), 8), "backend.megatron.extra", ("--inprocess-restart",))
    assert not refusals(override(asked, "launch.entry", "/m/pretrain_gpt.py"), "megatron")


def test_what_no_key_decides_is_passed_through() -> None:
    assert contradictions(("--log-memory-interval=5", "--no-rope-fusion")) == []


def test_hybrid_context_parallelism_is_refused_with_megatrons_reason() -> None:
    words = ("--hybrid-context-parallel", "--max-seqlen-per-dp-cp-rank", "64", "--log-params-norm")
    (problem,) = refusals(override(spec(small_model(), 8, cp=2), "backend.megatron.extra", words), "megatron")
    assert problem.rule == "context.hybrid"
    assert "cu_seqlens" in problem.message
    assert [dict(repair) for repair in problem.repairs] == [{"backend.megatron.extra": ("--log-params-norm",)}]
