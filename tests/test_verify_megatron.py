"""Megatron's own code judges what we emit: the whole of it passes, and anything wrong is found."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from builders import llama_405b, small_model, spec
from meshwright.emit.megatron import flags
from meshwright.layout.grid import Axes, Grid
from meshwright.layout.plan import Plan
from meshwright.resolver import resolve
from meshwright.spec import Backend, RampStep, Schedule, Spec
from meshwright.spec.model import Mla, Moe
from meshwright.verify import verify
from meshwright.verify.pool import Crash, fork_map
from meshwright.verify.verdict import Check

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

MOE = Moe(experts=8, topk=2, ffn=64, shared_ffn=64, first_dense=1)
MLA = Mla(kv_lora_rank=16, qk_nope_dim=16, qk_rope_dim=8, v_dim=16, q_lora_rank=32)

LAYOUTS: dict[str, Spec] = {
    "llama 3 405b on 16,384 GPUs": llama_405b(),
    "gqa tp pp vpp": spec(small_model(), 8, global_batch=8, tp=2, sp=True, pp=2, vpp=2),
    "fewer kv heads than tp": spec(small_model(kv_heads=2), 4, tp=4, sp=True),
    "tied, learned positions, biases": spec(
        small_model(tied_embeddings=True, positions="learned", linear_bias=True, norm="layernorm", activation="gelu"),
        4,
        global_batch=4,
        pp=2,
    ),
    "experts ep etp": spec(small_model(moe=MOE), 8, global_batch=8, tp=2, sp=True, ep=2, etp=2),
    "experts and mla and mtp": spec(small_model(moe=MOE, mla=MLA, mtp=1), 8, global_batch=16, pp=2, ep=4),
    "one layer ahead that runs twice": spec(
        small_model(moe=MOE, mtp=2, mtp_repeated=True), 8, global_batch=16, pp=2, ep=4
    ),
    "mla with tp": spec(small_model(mla=MLA), 4, tp=4, sp=True),
    "cp": spec(small_model(), 8, global_batch=4, cp=2, tp=2, sp=True, cp_comm="a2a"),
    "cp in levels": spec(small_model(), 8, global_batch=4, cp=4, cp_comm="a2a+p2p", cp_levels=(2, 2)),
    "weights in parts": spec(small_model(), 16, global_batch=16, tp=2, sp=True, cp=2, gtp=4, zero=1),
    "experts in parts": spec(
        small_model(moe=MOE, mla=MLA, mtp=1), 32, global_batch=32, pp=2, tp=2, sp=True, gtp=2, ep=4, egtp=2, zero=1
    ),
    "zero 1": spec(small_model(), 4, zero=1, optimizer_instances=2),
    "zero 3 by Megatron-FSDP": spec(small_model(), 4, zero=3),
    "full recompute": spec(small_model(), 4, recompute="full"),
}


def judged(plan: Plan, name: str, **arguments: Any) -> Check | Crash:
    """One check in a fork, of a plan or of other flags than it emits."""

    def work(_: int) -> Check:
        from meshwright.verify import megatron
        from meshwright.verify.megatron_build import built

        megatron.warm()
        return megatron.parsed(plan, **arguments) if name == "parsed" else built(plan)

    return fork_map(work, [0])[0]


def test_what_is_imported_for_checks_leaves_a_trainer_its_own_connections() -> None:
    """Megatron refuses FSDP with CUDA_DEVICE_MAX_CONNECTIONS=1, whoever set it (training/arguments.py:1014)."""

    def work(_: int) -> str | None:
        from meshwright.verify import megatron

        os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)
        megatron.warm()
        return os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS")

    assert fork_map(work, [0]) == [None]


def test_every_kind_of_layout_passes() -> None:
    plans = [resolve(candidate) for candidate in LAYOUTS.values()]
    for name, verdicts in zip(LAYOUTS, verify(plans), strict=True):
        verdict = next(v for v in verdicts if v.backend == "megatron")
        assert verdict.versions["megatron-core"]
        for check in verdict.checks:
            assert check.passed, f"{name}: {check.name}: {check.details}"
            assert check.substitutions, "what stood in for a GPU is said"


def test_a_flag_too_few_is_found() -> None:
    plan = resolve(spec(small_model(), 4, tp=2, sp=True))
    words = [word for word in flags(plan) if word != "--sequence-parallel"]
    check = judged(plan, "parsed", words=words)
    assert isinstance(check, Check)
    assert "sequence_parallel is False, the plan says True" in check.details


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--zero-stage", "unrecognized arguments: --zero-stage"),
        ("--tp-comm-overlap", "sequence parallelism is enabled"),
        ("--overlap-param-gather", "only supported with distributed optimizer"),
    ],
)
def test_what_megatron_rejects_fails_with_its_words(word: str, said: str) -> None:
    plan = resolve(spec(small_model(), 4, tp=2))
    crash = judged(plan, "parsed", words=[*flags(plan), word])
    assert isinstance(crash, Crash)
    assert said in crash.text


RAMP = (RampStep(from_tokens=0, global_batch=4), RampStep(from_tokens=20_480, global_batch=16))  # ten steps of four


def ramped(**schedule: Any) -> Plan:
    """40 steps of sequences of 512 tokens, 520 of them in all."""
    base = spec(small_model(), 4, global_batch=16)
    schedule = {"warmup_steps": 5, "min_lr": 1e-5, **schedule}
    return resolve(replace(base, training=replace(base.training, steps=40, ramp=RAMP, schedule=Schedule(**schedule))))


@pytest.mark.parametrize("style", ["constant", "linear", "cosine", "wsd", "inverse_sqrt"])
def test_a_ramp_keeps_the_schedule(style: str) -> None:
    """Megatron takes one micro-batch a rank for its batch then; in samples, that does no harm."""
    plan = ramped(style=style, wsd_decay_steps=10)
    words = " ".join(flags(plan))
    assert "--train-samples 520" in words
    assert "--lr-warmup-samples 20 --lr-decay-samples 520" in words
    assert ("--lr-wsd-decay-samples 160" in words) == (style == "wsd")
    check = judged(plan, "parsed")
    assert isinstance(check, Check), check.text
    assert check.passed, check.details


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--train-samples", "536"), "41 steps, the plan says 40"),
        (("--lr-warmup-samples", "10"), "the learning rate of step 1 is 0.00012, the plan says 6e-05"),
        (("--lr-decay-samples", "160"), "the learning rate of step 38 is 1e-05"),
        (("--step-batch-size-schedule", "0:4 10240:16"), "the batch of step 5 is 16, the plan says 4"),
    ],
)
def test_a_schedule_that_is_not_the_plans_is_found(change: tuple[str, str], said: str) -> None:
    words = flags(ramped())
    words[words.index(change[0]) + 1] = change[1]
    check = judged(ramped(), "parsed", words=words)
    assert isinstance(check, Check), check.text
    assert said in check.details


def test_a_warm_up_longer_than_the_run_is_found() -> None:
    plan = resolve(spec(small_model(), 4))
    crash = judged(plan, "parsed", words=[*flags(plan), "--lr-warmup-iters", "2000"])
    assert isinstance(crash, Crash)
    assert "AssertionError" in crash.text


def test_what_is_launched_with_deepspeed_is_built_with_the_words_that_megatron_cuts() -> None:
    """AutoTP's ranks each hold all words (deepspeed/module_inject/auto_tp.py), Megatron's a part."""
    described = replace(spec(small_model(), 4, global_batch=8, tp=2, zero=1), backend=Backend(name="deepspeed"))
    plan = resolve(described)
    check = judged(plan, "built")
    assert isinstance(check, Check)
    assert check.passed, check.details
    assert f"{plan.stages[0].parameters:,} parameters on one rank" not in check.details


def test_a_wrong_parameter_count_fails_built() -> None:
    plan = resolve(spec(small_model(), 4, global_batch=8, pp=2))
    wrong = replace(plan, stages=(replace(plan.stages[0], parameters=1), *plan.stages[1:]))
    check = judged(wrong, "built")
    assert isinstance(check, Check)
    assert not check.passed
    assert "ours 1 and 0" in check.details


class Twisted(Grid):
    """A grid that numbers cp before tp."""

    @property
    def dense(self) -> Axes:
        return Axes({"cp": self.cp, "tp": self.tp, "dp": self.dp, "pp": self.pp})


def test_wrong_groups_fail_built() -> None:
    plan = resolve(spec(small_model(), 8, global_batch=8, tp=2, sp=True, cp=2))
    wrong = replace(plan, grid=Twisted(**vars(plan.grid)))
    check = judged(wrong, "built")
    assert isinstance(check, Check)
    assert "rank 0's tp group is [0, 1]..., ours [0, 2]..." in check.details
