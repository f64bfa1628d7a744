"""What a program cannot say is refused by a rule's name, and what is proposed instead mends it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshwright.resolver import override, refusals
from meshwright.rules import every_rule
from meshwright.rules.accelerate import RULES as TRAINER
from meshwright.rules.bridge import RULES as BRIDGE
from meshwright.rules.exported import RULES as EXPORTED
from meshwright.rules.torchtitan import RULES as TORCHTITAN
from meshwright.spec import RampStep, Schedule
from meshwright.spec.model import Rope, RopeScaling
from test_export import BASES


def broken(program: str, **changes: Any) -> set[str]:
    base = BASES[program]
    for path, value in changes.items():
        base = override(base, path.replace("__", "."), value)
    return {problem.rule for problem in refusals(base, program)}


OWN = (*EXPORTED, *TRAINER, *BRIDGE, *TORCHTITAN)
NO_REPAIR = ("bridge.length", "bridge.model", "trainer.length", "torchtitan.length", "torchtitan.model")
YARN = RopeScaling(kind="yarn", factor=4.0, original_positions=4096)
WSD = Schedule(style="wsd", wsd_decay_steps=40, warmup_steps=20)

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "trainer.length": ("accelerate_fsdp", {"training__steps": None}),
    "trainer.ramp": ("accelerate_fsdp", {"training__ramp": (RampStep(from_tokens=0, global_batch=8),)}),
    "trainer.optimizer": ("accelerate_deepspeed", {"training__optimizer__name": "sgd"}),
    "trainer.decay": ("accelerate_fsdp", {"training__schedule__decay_steps": 100}),
    "trainer.inverse_sqrt": ("accelerate_fsdp", {"training__schedule__style": "inverse_sqrt"}),
    "trainer.wsd": ("accelerate_fsdp", {"training__schedule": replace(WSD, wsd_decay_style="exponential")}),
    "trainer.wsd_warmup": ("accelerate_fsdp", {"training__schedule": replace(WSD, min_lr=1e-5)}),
    "trainer.precision": ("accelerate_fsdp", {"training__precision": "fp8_delayed"}),
    "trainer.deepspeed_degrees": ("accelerate_deepspeed", {"parallelism__tp": 2}),
    "trainer.deepspeed_techniques": ("accelerate_deepspeed", {"backend__deepspeed__tiling__loss": 4}),
    "trainer.deepspeed_offload": ("accelerate_deepspeed", {"backend__deepspeed__offload_optimizer__device": "cpu"}),
    "trainer.fsdp_degrees": ("accelerate_fsdp", {"parallelism__tp": 2}),
    "trainer.fsdp_split": ("accelerate_fsdp", {"parallelism__pipeline_split__loss": True}),
    "trainer.fsdp_zero": ("accelerate_fsdp", {"parallelism__zero": 1}),
    "trainer.fsdp_instances": ("accelerate_fsdp", {"parallelism__optimizer_instances": 2}),
    "trainer.fsdp_context": ("accelerate_fsdp", {"parallelism__cp": 2, "training__sequence": 510}),
    "trainer.fsdp_attention": ("accelerate_fsdp", {"parallelism__cp": 2, "backend__deepspeed__attention": "eager"}),
    "trainer.fsdp_sums": ("accelerate_fsdp", {"training__grad_reduce": "fp32"}),
    "fsdp.states": ("accelerate_fsdp", {"backend__deepspeed__offload_optimizer__device": "cpu"}),
    "export.evaluation": ("torchtitan", {"training__evaluation__interval": 10}),
    "export.checkpoints": ("bridge", {"training__logging__keep_last": 3}),
    "bridge.model": ("bridge", {"model__mtp": 1}),
    "bridge.positions": ("bridge", {"model__positions": "learned"}),
    "bridge.rope": ("bridge", {"model__rope": Rope(scaling=YARN)}),
    "bridge.length": ("bridge", {"training__steps": None}),
    "bridge.ramp": ("bridge", {"training__ramp": (RampStep(from_tokens=0, global_batch=8),)}),
    "bridge.extra": ("bridge", {"backend__megatron__extra": ("--log-params-norm",)}),
    "torchtitan.model": ("torchtitan", {"model__qk_norm": "head"}),
    "torchtitan.length": ("torchtitan", {"training__steps": None}),
    "torchtitan.ramp": ("torchtitan", {"training__ramp": (RampStep(from_tokens=0, global_batch=8),)}),
    "torchtitan.precision": ("torchtitan", {"training__precision": "fp16"}),
    "torchtitan.optimizer": ("torchtitan", {"training__optimizer__clip": 0.0}),
    "torchtitan.schedule": ("torchtitan", {"training__schedule": replace(WSD, wsd_decay_style="exponential")}),
    "torchtitan.decay": ("torchtitan", {"training__schedule__decay_steps": 100}),
    "torchtitan.data": ("torchtitan", {"training__data__paths": ("a",)}),
    "torchtitan.zero": ("torchtitan", {"parallelism__zero": 1}),
    "torchtitan.replicas": ("torchtitan", {"parallelism__zero": 0, "parallelism__tp": 2}),
    "torchtitan.instances": ("torchtitan", {"parallelism__optimizer_instances": 3}),
    "torchtitan.kv_heads": ("torchtitan", {"parallelism__tp": 8}),
    "torchtitan.vocabulary": ("torchtitan", {"parallelism__tp": 2, "model__vocab": 1001}),
    "torchtitan.tied": ("torchtitan", {"parallelism__pp": 2, "model__tied_embeddings": True}),
    "torchtitan.context": ("torchtitan", {"parallelism__cp": 2}),
    "torchtitan.interleaved": (
        "torchtitan",
        {"parallelism__pp": 2, "parallelism__vpp": 2, "training__global_batch": 12},
    ),
    "torchtitan.group": (
        "torchtitan",
        {"parallelism__pp": 2, "parallelism__vpp": 2, "parallelism__microbatch_group": 4},
    ),
    "torchtitan.recompute": ("torchtitan", {"parallelism__recompute": "selective"}),
    "torchtitan.order": ("torchtitan", {"parallelism__pp": 2, "parallelism__order": "tp-cp-ep-pp-dp"}),
    "torchtitan.overlap": ("torchtitan", {"parallelism__overlap_tp": True}),
    "trainer.ddp_sums": ("accelerate_fsdp", {"parallelism__zero": 0}),
    "trainer.fsdp_overlap": ("accelerate_fsdp", {"parallelism__overlap_param_gather": False}),
}


@pytest.mark.parametrize("rule", [rule.id for rule in OWN])
def test_what_a_program_cannot_say_is_refused_by_name(rule: str) -> None:
    program, changes = REFUSED[rule]
    assert rule in broken(program, **changes)


@pytest.mark.parametrize("rule", [rule for rule in OWN if rule.id not in NO_REPAIR], ids=lambda rule: rule.id)
def test_what_is_proposed_mends_it(rule: Any) -> None:
    program, changes = REFUSED[rule.id]
    base = BASES[program]
    for path, value in changes.items():
        base = override(base, path.replace("__", "."), value)
    (problem,) = [one for one in refusals(base, program) if one.rule == rule.id]
    assert problem.repairs, problem
    for repair in problem.repairs:
        mended = base
        for path, value in repair.items():
            mended = override(mended, path, value)
        assert rule.id not in {one.rule for one in refusals(mended, program)}


def test_a_programs_rules_are_those_its_bases_share_and_its_own() -> None:
    both = {rule.id for rule in every_rule() if {"megatron", "deepspeed"} <= set(rule.backends)}
    assert "batch.global" in both
    assert "batch.global" in broken("accelerate_fsdp", training__global_batch=17)
    assert "deepspeed.precision" in broken("accelerate_deepspeed", training__precision="mxfp8")
    assert not any(rule.startswith("megatron.") for rule in broken("accelerate_fsdp", training__global_batch=17))
