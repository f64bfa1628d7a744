"""What recipes say that an authors' trainer held less of, worked out from what the authors publish."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.cost import cost
from meshwright.cost.estimate import estimate
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.cost.memory import GIB, stage_parameters
from meshwright.cost.saved import saved
from meshwright.cost.stage_loads import load_of
from meshwright.layout.plan import Plan
from meshwright.library import files as library
from meshwright.library.published import Spared, spared_of
from meshwright.report.spared import theirs
from meshwright.resolver import layout, normalise, resolve


def planned(name: str) -> Plan:
    """The first stage of the first variant."""
    return resolve(library.run(name).stages[0])


def said(name: str) -> float:
    """GiB of its first stage."""
    names = library.run(name).stages[0].names
    return sum(one.gib for one in spared_of(library.recipe(name).about.spared, names))


def activations(plan: Plan) -> float:
    """Of the fullest rank."""
    costs = cost(plan)
    return float(costs.stages[costs.fullest].activations)


def test_dualpipe_keeps_seventeen_sixteenths_of_the_model_in_its_authors_types() -> None:
    """Of SwiGLU's inputs a byte less, of attention's outputs 1.5 instead of three, and an eighth of the model."""
    plan = planned("deepseek_v3")
    s, spec = scene(layout(normalise(plan.spec))), plan.spec
    loads = [load_of(s, i, stage.chunks) for i, stage in enumerate(plan.stages)]
    moe, mla = spec.model.moe, spec.model.mla
    assert moe is not None
    assert mla is not None
    layers = [sum(load.of_kind[kind] for load in loads) for kind in range(2)]
    assert [kind.ffn for kind in s.kinds] == ["mlp", "experts"]
    whole = sum(load.total(saved(s, operations) for operations in s.layers) for load in loads)
    swiglu = 2 * (moe.topk * moe.ffn + moe.shared_ffn) * s.tokens * layers[1]
    attention = 1.5 * spec.model.heads * mla.v_dim * s.tokens * sum(layers)
    part = (spec.parallelism.pp + 1) / spec.parallelism.pp
    assert part * whole / GIB == pytest.approx(55.3, abs=0.05)
    assert part * swiglu / GIB == pytest.approx(8.8, abs=0.05)
    assert part * attention / GIB == pytest.approx(6.2, abs=0.05)

    everything, experts = (sum(each) / 8 for each in zip(*(stage_parameters(s, load) for load in loads), strict=True))
    owned = (everything - experts) / s.replicas + experts / s.edp
    stages = cost(plan).stages
    states = sum(one.weights + one.gradients for one in stages) / 8 + s.framework.optimizer_bytes * owned
    ours = stages[0]
    more = states - (ours.weights + ours.gradients + ours.optimizer)
    assert more / GIB == pytest.approx(5.3, abs=0.05)

    less = ours.activations - part * (whole - swiglu - attention) - more
    assert said("deepseek_v3") == pytest.approx(less / GIB, abs=0.1)


def test_checkpoints_over_tensor_parallel_ranks_are_an_eighth_each() -> None:
    plan = planned("opt_175b")
    model, sequence = plan.spec.model, plan.spec.training.sequence
    one = model.layers * model.hidden * 2 * sequence / GIB
    assert activations(plan) / GIB == pytest.approx(4 * one, rel=0.01)
    assert said("opt_175b") == pytest.approx(4 * one - 8 * one / 8, abs=0.05)


def test_fast_llm_keeps_what_its_kernels_save() -> None:
    """Of two norms, queries, keys and values, attention's output and statistics, gate and up, and what goes down."""
    plan = planned("fast_llm_mistral_7b")
    model = plan.spec.model
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    kept = 2 * (2 * model.hidden + 2 * queries + 2 * keys + 3 * model.ffn) + 4 * model.heads
    tokens = plan.spec.training.sequence * plan.batch.micro_batch
    assert kept == 123_008
    less = activations(plan) / GIB - kept * model.layers * tokens / GIB
    assert said("fast_llm_mistral_7b") == pytest.approx(less, abs=0.1)


def test_torchtitans_trainer_held_what_its_page_measured() -> None:
    costs = cost(planned("torchtitan_llama3_8b"))
    held = theirs(costs, library.recipe("torchtitan_llama3_8b").about.spared)
    assert held / GIB == pytest.approx(62.0, abs=0.1)


ENGINES_LOSS = "Transformer Engine's loss"
SPARE_IT = [
    (name, one)
    for name in library.names()
    for one in library.recipe(name).about.spared
    if one.why.startswith(ENGINES_LOSS)
]


@pytest.mark.parametrize(("name", "one"), SPARE_IT, ids=[f"{name}-{one.gib}" for name, one in SPARE_IT])
def test_transformer_engines_loss_spares_eight_bytes_of_a_logit(name: str, one: Spared) -> None:
    """And two of each that predicting layers keep; where nothing else then holds more."""
    specs = [spec for run in library.runs(name) for spec in run.stages if spec.variant in one.of]
    assert len(specs) == len(one.of)
    for spec in specs:
        numbers = layout(normalise(spec))
        usual = framework_of(numbers)
        peaks = [estimate(numbers, replace(usual, loss_bytes=each)).peak_memory for each in (usual.loss_bytes, 2.0)]
        assert usual.loss_bytes == 10.0
        assert float(peaks[0] - peaks[1]) / GIB == pytest.approx(one.gib, abs=0.06)
