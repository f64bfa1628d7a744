"""Random Specs, written and read back: the import of what ``compile`` emits gives the same Plan."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_origin

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from meshwright.cost import cost
from meshwright.emit.backends import FILES
from meshwright.emit.megatron import flags
from meshwright.imports.megatron import of_flags
from meshwright.imports.read import imported
from meshwright.layout.length import UNSTATED_STEPS
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import holds, override, resolve
from meshwright.spec import RampStep, Spec
from meshwright.spec.model import Moe
from read_back import again, plan_of, words_of, written
from test_emit_mutation import BASES, leaves, others

STRUCTURED: dict[str, tuple[Any, ...]] = {
    "training.ramp": ((RampStep(from_tokens=0, global_batch=8), RampStep(from_tokens=81920, global_batch=16)),),
    "training.data.paths": (("a", "b"), ("a",)),
    "training.data.weights": ((1.0, 2.0),),
    "training.data.split": ("98,1,1",),
    "parallelism.cp_levels": ((2, 2),),
    "parallelism.recompute_modules": (("core_attn", "mlp"), ("layernorm",)),
    "parallelism.pipeline_split.layout": ("Ettt|ttt|tt|L", "Etttt|ttttL"),
    "backend.megatron.extra": (("--distributed-timeout-seconds-after-init", "60"), ("--init-method-xavier-uniform",)),
    "backend.megatron.cuda_graphs.modules": (("attn",), ("moe_router",)),
    "backend.megatron.activation_offload.modules": (("core_attn",), ("qkv_linear", "mlp_norm")),
    "backend.deepspeed.extra": ({"wall_clock_breakdown": True}, {"zero_optimization": {"round_robin_gradients": True}}),
    "model.moe": (None, Moe(experts=8, topk=2, ffn=64)),
    "model.full_attention_at": ((0, 4),),
}
"""Values of the fields that are no plain numbers, words or switches."""

WHOLE = (2, 4, 8, 16, 32, 64, 100)
NAMES = ("model.name", "model.transformers")  # said by the files' names and by transformers, tested elsewhere
UNSAID = {"megatron": (), "deepspeed": ("parallelism.order",)}  # without stages both orders are one
MOST = 25  # changes of one Spec


def choices(base: Spec, backend: str) -> dict[str, list[Any]]:
    """By field of the model, the layout, the training and ``backend``'s own options: its other values."""
    rooms = ("model.", "parallelism.", "training.", f"backend.{backend}.")
    found: dict[str, list[Any]] = {}
    for path, hint, value in leaves(base):
        if path.startswith(rooms) and path not in (*NAMES, *UNSAID[backend]):
            free = isinstance(value, int) and not isinstance(value, bool) and get_origin(hint) is not Literal
            whole = WHOLE if free else ()
            found[path] = [*others(hint, value), *whole, *STRUCTURED.get(path, ())]
    return {path: values for path, values in found.items() if values}


def grown(base: Spec, changes: list[tuple[str, Any]], backend: str) -> Spec:
    """``base`` with those changes that leave it valid; a part that one takes away has no fields for a later one."""
    for path, value in changes:
        if reached(base, path.rpartition(".")[0]):
            changed = override(base, path, value)
            base = changed if holds(changed, backend) else base
    return base


def reached(value: Any, path: str) -> bool:
    for name in path.split("."):
        value = getattr(value, name)
        if value is None:
            return False
    return True


PIP = load(["model=tiny", "cluster.gpus=8"]).stages[0].software
"""What a description that is composed again is judged by: no value may ask for more."""


def specs(backend: str) -> st.SearchStrategy[Spec]:
    """Valid Specs on 16 GPUs: one of the bases with up to 25 changes."""

    def of(name: str) -> st.SearchStrategy[Spec]:
        base = override(override(BASES[backend][name], "backend.name", backend), "cluster.gpus", 16)
        base = replace(override(base, "training.global_batch", 16), software=PIP)
        every = choices(base, backend)
        change = st.sampled_from(sorted(every)).flatmap(
            lambda path: st.tuples(st.just(path), st.sampled_from(every[path]))
        )
        return st.lists(change, min_size=5, max_size=MOST).map(lambda changes: grown(base, changes, backend))

    return st.sampled_from(sorted(BASES[backend])).flatmap(of)


DERIVED = ("grid", "batch", "stages", "total_parameters")


def same(copy: Plan, plan: Plan) -> None:
    """The numbers that follow, and what they cost."""
    assert attrgetter(*DERIVED)(copy) == attrgetter(*DERIVED)(plan)
    assert (copy.steps or UNSTATED_STEPS) == (plan.steps or UNSTATED_STEPS)
    ours, theirs = cost(plan), cost(copy)
    assert (theirs.step, theirs.stages, theirs.traffic) == (ours.step, ours.stages, ours.traffic)


def megatron(spec: Spec) -> None:
    plan = resolve(spec)
    source = of_flags(words_of(*flags(plan)), "args", plan.grid.world)
    assert source.asks == ()
    assert [remark for remark in source.remarks if remark.level == "error"] == []
    assert [found for found in source.found if found.fate == "dropped"] == []
    copy = plan_of(source, spec)
    assert flags(copy) == flags(plan)
    same(copy, plan)


NAMED = {"name", "tensorboard.job_name", "dp", "zenflow", "compile"}
"""The run's name, what follows from the GPUs, and what the program is told of DeepSpeed's own configuration."""


def deepspeed(spec: Spec) -> None:
    plan = resolve(spec)
    with TemporaryDirectory() as folder:
        path = written(plan, Path(folder)) / "deepspeed" / "ds_config.json"
        source = imported([path])
        assert source.remarks == ()
        assert {found.key for found in source.found if found.fate == "dropped"} <= NAMED
        copy = again(path, spec, f"cluster.gpus={plan.grid.world}")
    assert FILES["deepspeed"](copy) == FILES["deepspeed"](plan)
    same(copy, plan)


PHASES = (Phase.explicit, Phase.generate)  # a Spec of 25 changes takes minutes to shrink
QUICK = settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=PHASES)
MANY = settings(QUICK, max_examples=1000)


@given(specs("megatron"))
@QUICK
def test_megatron(spec: Spec) -> None:
    megatron(spec)


@given(specs("deepspeed"))
@QUICK
def test_deepspeed(spec: Spec) -> None:
    deepspeed(spec)


@pytest.mark.slow  # minutes
@given(specs("megatron"))
@MANY
def test_many_of_megatron(spec: Spec) -> None:
    megatron(spec)


@pytest.mark.slow  # minutes
@given(specs("deepspeed"))
@MANY
def test_many_of_deepspeed(spec: Spec) -> None:
    deepspeed(spec)
