"""Muon on Megatron: sharded by layers at ZeRO-1, refused with FSDP and fp16, one number for its state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.cost.muon import gathering, multiplying, sent
from meshwright.cost.stage_loads import load_of
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.imports.found import Place
from meshwright.imports.megatron import of_flags
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
    (problem,) = [one for one in refusals(asked, "megatron") if one.message.startswith("muon")]
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


M = "backend.megatron.muon."
DETAILS = {
    f"{M}nesterov": True,
    f"{M}steps": 8,
    f"{M}coefficients": "polar_express",
    f"{M}scale": "shape_scaling",
    f"{M}extra_scale": 0.2,
    f"{M}products": "high",
    f"{M}split_qkv": False,
    f"{M}tp_mode": "distributed",
    f"{M}scalars": "lion",
    "training.optimizer.momentum": 0.95,
}


def test_every_detail_is_read_back_from_flags_and_keyword_arguments() -> None:
    pytest.importorskip("megatron.training")
    plan = resolve(muon(1, **DETAILS))
    assert _parsed(plan) == ""
    made = kwargs(plan)["OptimizerConfig"]
    assert {name: made[name] for name in made if name.startswith("muon")} == {
        "muon_momentum": 0.95,
        "muon_nesterov": True,
        "muon_num_ns_steps": 8,
        "muon_coefficient_type": "polar_express",
        "muon_scale_mode": "shape_scaling",
        "muon_extra_scale_factor": 0.2,
        "muon_fp32_matmul_prec": "high",
        "muon_split_qkv": False,
        "muon_tp_mode": "distributed",
        "muon_scalar_optimizer": "lion",
    }


def test_keyword_arguments_have_the_momentum_of_the_flags() -> None:
    """Megatron's dataclass has 0.95 where its command line has 0.9."""
    assert kwargs(resolve(muon()))["OptimizerConfig"]["muon_momentum"] == 0.9


def test_details_of_another_optimizer_are_refused() -> None:
    asked = muon(1, **{f"{M}steps": 8, f"{M}nesterov": True, "training.optimizer.name": "adamw"})
    (problem,) = refusals(asked, "megatron")
    assert problem.rule == "megatron.muon"
    assert problem.repairs == ({f"{M}nesterov": False, f"{M}steps": 5}, {"training.optimizer.name": "muon"})


def test_a_script_with_muon_is_read_whole() -> None:
    words = ("--optimizer", "dist_muon", "--muon-momentum", "0.95", "--muon-tp-mode", "duplicated", "--lr", "1e-3")
    values = of_flags([(word, Place("args.txt", 1)) for word in words], "args").values
    assert values["training.optimizer.name"] == "muon"
    assert values["training.optimizer.momentum"] == 0.95
    assert values["parallelism.zero"] == 1
    assert values[f"{M}tp_mode"] == "duplicated"


def _seconds(zero: int = 1, **changes: object) -> float:
    s = scene(layout(normalise(muon(zero, **changes))))
    load = load_of(s, 0, resolve(muon(zero, **changes)).stages[0].chunks)
    return float(multiplying(s, load) + gathering(s, load))


def test_orthogonalization_takes_products_of_every_matrix_once() -> None:
    """Queries 128x128, keys and values 64x128, output 128x128, both MLP products (512 and 256) x 128; eight layers."""
    gpu, e = muon().cluster.accelerator, muon().cluster.efficiency
    shapes = [(128, 128), (64, 128), (64, 128), (128, 128), (128, 512), (128, 256)]
    flops = 8 * 5 * sum(4 * m * m * n + 2 * m**3 for m, n in shapes)
    moved = 8 * 5 * 2 * sum(3 * m * n + 4 * m * m for m, n in shapes)
    started = 8 * 5 * len(shapes) * 3 * e.kernel_us * 1e-6
    read = moved / (gpu.memory_bandwidth_gb_s * 1e9 * e.memory)
    whole = flops / (gpu.bf16_tflops * 1e12 * e.matmul) + read + started
    assert _seconds(0) == pytest.approx(whole)
    assert _seconds(1) == pytest.approx(whole / 8)


def test_the_mode_decides_what_tensor_parallel_ranks_compute_and_gather() -> None:
    split = {"parallelism.tp": 2, "parallelism.sp": True}
    blocks, whole, parts = (
        _seconds(1, **split, **{f"{M}tp_mode": mode}) for mode in ("blockwise", "duplicated", "distributed")
    )
    assert blocks < whole
    assert blocks < parts
    sizes = []
    for mode in ("blockwise", "duplicated"):
        s = scene(layout(normalise(muon(1, **split, **{f"{M}tp_mode": mode}))))
        sizes.append(sent(s, load_of(s, 0, resolve(muon(1, **split)).stages[0].chunks)))
    matrices = 8 * (128 * 128 + 2 * 64 * 128 + 128 * 128 + 3 * 256 * 128)
    assert sizes == [0, pytest.approx(4 * matrices / 4 / 2)]  # of four replicas each steps a quarter; half is here


def test_embedding_and_head_keep_adams_second_moment() -> None:
    adam, lion = (cost(resolve(muon(0, **{f"{M}scalars": name}))).stages[0].optimizer for name in ("adam", "lion"))
    model = small_model()
    assert adam - lion == 4 * (2 * resolve(muon(0)).padded_vocab * model.hidden + model.hidden)


def clipped(**changes: Any) -> Spec:
    made = override(spec(small_model(), 8, global_batch=16), "training.optimizer.qk_clip", 100.0)
    for path, value in changes.items():
        made = override(made, path.replace("__", "."), value)
    return made


def test_attentions_logits_are_clipped_as_megatron_is_told() -> None:
    pytest.importorskip("megatron.training")
    plan = resolve(clipped())
    words = flags(plan)
    at = words.index("--qk-clip")
    assert words[at : at + 3] == ["--qk-clip", "--qk-clip-threshold", "100.0"]
    transformer = kwargs(plan)["TransformerConfig"]
    assert (transformer["qk_clip"], transformer["qk_clip_threshold"]) == (True, 100.0)
    assert _parsed(plan) == ""
    read = of_flags([(word, Place("", 1)) for word in words], "words", 8)
    assert read.values["training.optimizer.qk_clip"] == 100.0
    assert read.values["backend.megatron.extra"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"backend__megatron__transformer": "local"},
        {"backend__megatron__attention": "flash"},
        {"backend__megatron__cuda_graphs__kind": "full_iteration"},
        {"backend__megatron__model": "hybrid", "model__pattern": "8x(*-)"},
    ],
)
def test_logits_that_nobody_tells_are_not_clipped(changes: dict[str, Any]) -> None:
    assert "megatron.qk_clip" in {problem.rule for problem in refusals(clipped(**changes), "megatron")}
    (one,) = [p for p in refusals(clipped(model__transformers="llama"), "deepspeed") if "qk_clip" in p.path]
    assert one.rule == "deepspeed.qk_clip"
