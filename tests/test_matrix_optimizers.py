"""Lion and SOAP: on Megatron beside Adam for embedding and head, on DeepSpeed Lion alone; states, time, proof."""

from __future__ import annotations

import inspect

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.cost.inputs import scene
from meshwright.cost.soap import flops, states, turning
from meshwright.cost.stage_loads import load_of
from meshwright.emit.deepspeed import config
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.imports.deepspeed import of_json
from meshwright.imports.documents import json_leaves
from meshwright.imports.found import Place
from meshwright.imports.megatron import of_flags
from meshwright.resolver import layout, override, refusals, resolve
from meshwright.rules.requirements import needed
from meshwright.spec import Spec
from meshwright.spec.identity import as_json


def asked(name: str, zero: int = 1, **more: int) -> Spec:
    one = override(spec(small_model(), 8, global_batch=16, **more), "training.optimizer.name", name)
    return override(one, "parallelism.zero", zero)


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("name", ["lion", "soap"])
def test_megatron_reads_them_back_and_deals_their_states_out(name: str, zero: int) -> None:
    pytest.importorskip("megatron.training")
    from meshwright.verify import megatron
    from meshwright.verify.pool import fork_map
    from meshwright.verify.verdict import Check

    plan = resolve(asked(name, zero))
    made = kwargs(plan)["OptimizerConfig"]
    assert made["optimizer"] == name
    assert made.get("use_layer_wise_distributed_optimizer", False) is (zero == 1)
    assert made["use_distributed_optimizer"] is False
    megatron.warm()
    (check,) = fork_map(megatron.parsed, [plan])
    assert isinstance(check, Check), check
    assert check.passed, check.details
    wrong = [*flags(plan), "--adam-beta2", "0.5"]
    (check,) = fork_map(lambda one: megatron.parsed(one, wrong), [plan])
    assert isinstance(check, Check), check
    assert "adam_beta2 is 0.5" in check.details


def test_a_script_is_read_back() -> None:
    for name in ("lion", "soap"):
        words = [(word, Place("")) for word in flags(resolve(asked(name)))]
        values = of_flags(words, "a command").values
        assert values["training.optimizer.name"] == name
        assert values["training.optimizer.beta2"] == 0.95


def test_lion_keeps_one_moment_of_matrices_and_adam_two_of_the_rest() -> None:
    adam, lion = (cost(resolve(asked(name, 0))).stages[0].optimizer for name in ("adamw", "lion"))
    plan, model = resolve(asked("lion", 0)), small_model()
    ends = 2 * model.vocab * model.hidden + model.hidden
    assert adam - lion == 4 * (plan.total_parameters - ends)


def test_soap_keeps_two_squares_and_their_bases_of_each_matrix() -> None:
    """A parameter as it stands, queries, keys and values in one; a tensor-parallel rank has its part's."""
    one = resolve(asked("soap", 0))
    s = scene(layout(one.spec))
    model, load = small_model(), load_of(s, 0, one.stages[0].chunks)
    heads, gate = model.heads * model.head_dim, 2 * model.ffn
    wide = heads + 2 * model.kv_heads * model.head_dim
    sides = ((wide, model.hidden), (model.hidden, heads), (gate, model.hidden), (model.hidden, model.ffn))
    each = model.layers * sum(8 * (n * n + m * m) for n, m in sides)
    assert states(s, load) == each
    plain = cost(resolve(asked("adamw", 0))).stages[0].optimizer
    assert cost(one).stages[0].optimizer == plain + each
    half = [(n / 2, m) if n != model.hidden else (n, m / 2) for n, m in sides]
    cut = resolve(asked("soap", 0, tp=2))
    s = scene(layout(cut.spec))
    load = load_of(s, 0, cut.stages[0].chunks)
    assert states(s, load) == model.layers * sum(8 * (n * n + m * m) for n, m in half)
    assert turning(s, load) > 0


@pytest.mark.parametrize(("n", "m", "products"), [(64, 128, 37748736), (32, 96, 12058624), (96, 160, 87031808)])
def test_soaps_products_are_those_that_torch_counted_in_a_step_of_it(n: int, m: int, products: int) -> None:
    """Emerging-Optimizers 0.3.0, the second step of one n x m parameter under torch's FlopCounterMode."""
    assert flops(n, m) == (products, pytest.approx(8 / 3 * (n**3 + m**3)))


def test_dealt_out_nobody_has_less_than_the_largest_matrix() -> None:
    one = resolve(asked("soap", 1))
    s = scene(layout(one.spec))
    model, load = small_model(), load_of(s, 0, one.stages[0].chunks)
    even = states(scene(layout(resolve(asked("soap", 0)).spec)), load) / 8
    assert states(s, load) == max(even, 8 * ((2 * model.ffn) ** 2 + model.hidden**2))


@pytest.mark.parametrize("name", ["lion", "soap"])
@pytest.mark.parametrize(("zero", "precision"), [(2, "bf16"), (1, "fp16")])
def test_megatron_refuses_what_its_code_does(name: str, zero: int, precision: str) -> None:
    one = override(asked(name, zero), "training.precision", precision)
    (problem,) = [found for found in refusals(one, "megatron") if found.message.startswith(name)]
    assert problem.repairs


def test_adaptive_muon_is_refused_for_what_its_first_step_reads() -> None:
    """Emerging-Optimizers 0.3.0 scales by ``self.scale_mode``; another Megatron that sets it may run."""
    (problem,) = refusals(asked("adaptive_muon", 1), "megatron")
    assert problem.rule == "megatron.adaptive_muon"
    assert "Emerging-Optimizers 0.3.0" in problem.message
    assert [one.rule for one in refusals(deepspeed("adaptive_muon"), "deepspeed")] == ["deepspeed.soap"]
    said = of_flags([(word, Place("", 1)) for word in ("--optimizer", "adaptive_muon", "--bf16")], "words", 8).values
    assert said["training.optimizer.name"] == "adaptive_muon"


def test_megatrons_class_still_lacks_what_is_read() -> None:
    pytest.importorskip("megatron.core")
    from megatron.core.optimizer import emerging_optimizers

    text = inspect.getsource(emerging_optimizers.TensorParallelAdaptiveMuon)
    assert "AdaptiveMuon.step(self, closure)" in text
    assert "self.scale_mode" not in text + inspect.getsource(emerging_optimizers.TensorParallelMuon)


def test_the_nodes_need_emerging_optimizers() -> None:
    rows = {row.option: row for row in needed(asked("soap"), "megatron")}
    assert rows["training.optimizer.name=soap"].component == "emerging_optimizers"
    assert "training.optimizer.name=muon" not in rows


def deepspeed(name: str = "lion", **options: object) -> Spec:
    one = override(spec(small_model(transformers="llama"), 8, global_batch=16), "training.optimizer.name", name)
    one = override(override(one, "backend.name", "deepspeed"), "parallelism.zero", 2)
    for path, value in options.items():
        one = override(one, f"backend.deepspeed.{path}".replace("__", "."), value)
    return one


def test_deepspeeds_lion_is_read_back_and_steps_everything() -> None:
    pytest.importorskip("deepspeed")
    from meshwright.verify import deepspeed as judge
    from meshwright.verify.pool import fork_map
    from meshwright.verify.verdict import Check

    plan = resolve(deepspeed())
    params = {"lr": 3e-4, "betas": [0.9, 0.95], "weight_decay": 0.1}
    assert config(plan)["optimizer"] == {"type": "Lion", "params": params}
    assert of_json(json_leaves(as_json(config(plan)), "")[0]).values["training.optimizer.name"] == "lion"
    judge.warm()
    checks = fork_map(judge.check, [(name, plan) for name in judge.CHECKS])
    for check in checks:
        assert isinstance(check, Check), check
        assert check.passed, check.details
    assert any("Lion" in said for check in checks if isinstance(check, Check) for said in check.substitutions)
    adam, lion = (cost(resolve(deepspeed(name))).stages[0].optimizer for name in ("adamw", "lion"))
    assert lion == pytest.approx(8 / 12 * adam)


def test_deepspeed_refuses_what_it_lacks_or_nobody_ran() -> None:
    assert [one.rule for one in refusals(deepspeed("soap"), "deepspeed")] == ["deepspeed.soap"]
    hosted = [one.rule for one in refusals(deepspeed(offload_optimizer__device="cpu"), "deepspeed")]
    assert "deepspeed.lion" in hosted
