"""Muon on Megatron: sharded by layers at ZeRO-1, refused with FSDP and fp16, one number for its state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import small_model, spec
from meshwright.cost.framework import framework_of
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.layout.plan import Plan
from meshwright.model.optimizer_state import checkpoint_gib
from meshwright.resolver import layout, normalise, override, refusals, resolve
from meshwright.spec import Spec


def muon(zero: int = 1, **changes: object) -> Spec:
    base = spec(small_model(), 8)
    asked = override(override(base, "training.optimizer.name", "muon"), "parallelism.zero", zero)
    for path, value in changes.items():
        asked = override(asked, path.replace("__", "."), value)
    return asked


def _parsed(plan: Plan) -> str:
    from meshwright.verify import megatron
    from meshwright.verify.pool import fork_map
    from meshwright.verify.verdict import Check

    megatron.warm()
    (check,) = fork_map(megatron.parsed, [plan])
    assert isinstance(check, Check), check
    return "" if check.passed else check.details


@pytest.mark.parametrize("zero", [0, 1])
def test_megatron_reads_back_what_the_plan_says(zero: int) -> None:
    pytest.importorskip("megatron.training")
    assert _parsed(resolve(muon(zero))) == ""


def test_the_layer_wise_optimizer_is_named() -> None:
    made = kwargs(resolve(muon()))["OptimizerConfig"]
    assert made["use_distributed_optimizer"] is False
    assert made["use_layer_wise_distributed_optimizer"] is True
    assert any(warning.path == "training.optimizer.name" for warning in resolve(muon()).warnings)


@pytest.mark.parametrize(
    ("asked", "path"), [(muon(2), "parallelism.zero"), (muon(training__precision="fp16"), "training.precision")]
)
def test_what_cannot_be_is_refused_with_its_repair(asked: Spec, path: str) -> None:
    (problem,) = [one for one in refusals(asked, "megatron") if "Muon" in one.message]
    assert problem.path == path
    assert problem.repairs


@pytest.mark.parametrize("name", ["muon", "sgd"])
def test_only_adam_is_aware_of_precision(name: str) -> None:
    asked = muon(backend__megatron__precision_aware_optimizer=True, training__optimizer__name=name)
    (problem,) = refusals(asked, "megatron")
    assert problem.message == f"the precision-aware optimizer is an Adam, the optimizer is {name}"
    assert {"training.optimizer.name": "adamw"} in problem.repairs


def test_memory_and_checkpoint_count_one_momentum() -> None:
    adam = spec(small_model(), 8)
    framework = framework_of(layout(normalise(muon(0))))
    assert framework.optimizer_bytes == 4 + 4
    parameters = resolve(adam).total_parameters
    assert checkpoint_gib(resolve(muon(0))) == pytest.approx(parameters * (2 + 4 + 4) / 2**30)
    assert checkpoint_gib(resolve(adam)) == pytest.approx(parameters * (2 + 4 + 8) / 2**30)


def test_a_checkpoint_holds_moments_in_their_precision() -> None:
    small = spec(small_model(), 8)
    options = replace(small.backend.megatron, precision_aware_optimizer=True, optimizer_moments="fp8")
    eight = replace(small, backend=replace(small.backend, megatron=options), parallelism=muon(1).parallelism)
    plan = resolve(eight)
    assert checkpoint_gib(plan) == pytest.approx(plan.total_parameters * (2 + 4 + 2) / 2**30)
