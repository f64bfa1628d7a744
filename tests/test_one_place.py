"""Facts that stood in two places and disagreed: each has one now, and these are the right values."""

from __future__ import annotations

import pytest

from meshwright.cost import cost
from meshwright.cost.inputs import scene
from meshwright.cost.memory import stage_parameters
from meshwright.cost.stage_loads import load_of
from meshwright.emit.megatron import flags
from meshwright.library import files as library
from meshwright.loading import load
from meshwright.resolver import layout, override, resolve
from meshwright.spec import Spec

LLAMA = ["model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "parallelism=zero1", "training.steps=10"]


def changed(*words: str) -> Spec:
    return load([*LLAMA, *words]).stages[0]


def test_torchs_fsdp_costs_nothing_where_nothing_is_emitted_for_it() -> None:
    """Megatron's FSDP flags stand for ZeRO 2 and 3 alone."""
    plain, fsdp = resolve(changed()), resolve(changed("backend.megatron.fsdp=torch"))
    assert flags(plain) == flags(fsdp)
    assert cost(plain).stages == cost(fsdp).stages


@pytest.mark.parametrize(
    ("path", "value"), [("vocab_divisor", 8), ("cross_entropy_fusion", True), ("attention", "unfused")]
)
def test_deepspeed_does_not_read_megatrons_options(path: str, value: object) -> None:
    spec = changed("backend=deepspeed")
    other = override(spec, f"backend.megatron.{path}", value)
    before, after = cost(resolve(spec)), cost(resolve(other))
    assert before.stages == after.stages
    assert before.step == after.step


@pytest.mark.parametrize(
    "name", ["deepseek_v3", "kimi_k2", "llama3_405b", "megatron_mixtral_8x7b", "gemma2_27b", "bloom_176b"]
)
def test_memory_counts_the_parameters_that_the_plan_has(name: str) -> None:
    """Prediction layers with their norms and projection included."""
    plan = resolve(library.run(name).stages[0])
    s = scene(layout(plan.spec))
    for index, stage in enumerate(plan.stages):
        total, experts = stage_parameters(s, load_of(s, index, stage.chunks))
        # the final norm, one of ten thousand weights, is counted with the head; with MTP it follows the last layer
        assert total == pytest.approx(stage.parameters, rel=1e-5), index
        assert experts == stage.expert_parameters, index
