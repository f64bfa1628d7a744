"""Transformer Engine's user buffers and precision file: written beside the flags, read by Megatron, counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import small_model, spec
from meshwright.compare.emitted import emitted
from meshwright.cost.estimate import estimate
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.cost.products import casts, peak, weight_bytes
from meshwright.emit.backends import FILES
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.imports.found import Place
from meshwright.imports.megatron import of_flags
from meshwright.jobs.readme import readme
from meshwright.model.user_buffers import buffer_bytes, presets, products
from meshwright.resolver import layout, override, refusals, resolve
from meshwright.spec import Spec
from meshwright.spec.model import Moe
from meshwright.spec.techniques import ModulePrecision, OverlappedProduct, TpOverlap
from read_back import words_in

B = "backend.megatron."
PRESET = "userbuffers_bf16_h100_h8192_tp4_mbs1_seqlen8192"
MOE = Moe(experts=8, topk=2, ffn=64, shared_ffn=64, first_dense=1)
RULES = (
    ModulePrecision(match="*.linear_proj"),
    ModulePrecision(match="*.experts.linear_fc1", precision="mxfp8"),
    ModulePrecision(match="mtp.*"),
)


def asked(base: Spec, **options: Any) -> Spec:
    for path, value in options.items():
        base = override(base, path.replace("__", "."), value)
    return base


def overlapping(**options: Any) -> Spec:
    base = spec(small_model(), 8, global_batch=16, tp=4, sp=True)
    return asked(base, parallelism__overlap_tp=True, **{f"{B}tp_overlap.{k}": v for k, v in options.items()})


def mixed(*rules: ModulePrecision, **options: Any) -> Spec:
    base = spec(small_model(moe=MOE, mtp=1), 8, global_batch=16)
    blackwell = {"cluster.accelerator.capability": "10.0", "cluster.accelerator.fp4_tflops": 10000.0}
    return asked(base, training__precision="nvfp4", **blackwell, **{f"{B}quantization.modules": rules}, **options)


def parsed(plan: Any, words: list[str] | None = None) -> str:
    pytest.importorskip("megatron.training")
    from meshwright.verify import megatron
    from meshwright.verify.pool import fork_map
    from meshwright.verify.verdict import Check

    megatron.warm()
    (check,) = fork_map(lambda one: megatron.parsed(one, words), [plan])
    assert isinstance(check, Check), check
    return "" if check.passed else check.details


def test_buffers_of_a_layer_are_those_of_the_engines_start() -> None:
    """Twelve, of which eight gather; a ring that scatters has 2 tp - 1 chunks of tp (comm_gemm_overlap.cpp)."""
    assert buffer_bytes(TpOverlap(), 1000, 4, (False,)) == 12 * 2000
    assert buffer_bytes(TpOverlap(), 1000, 4, (True,)) == 8 * 1000 + 4 * 2000
    assert buffer_bytes(TpOverlap(), 1000, 4, (True, False)) == 8 * 1000 + 4 * 2000 + 12 * 2000
    ring = TpOverlap(products=(OverlappedProduct(name="proj_fprop", method="ring_exchange"),))
    assert buffer_bytes(ring, 1000, 4, (False,)) == 11 * 2000 + 7 / 4 * 2000
    scattered = TpOverlap(products=(OverlappedProduct(name="qkv_dgrad", method="ring_exchange"),))
    assert buffer_bytes(scattered, 1000, 4, (False,)) == 10 * 2000 + 7 / 4 * 2000
    coded = TpOverlap(products=(OverlappedProduct(name="fc2_fprop", fp8_buffer=True),))
    assert buffer_bytes(coded, 1000, 4, (True,)) == 9 * 1000 + 3 * 2000


def test_they_are_memory_beside_the_allocators() -> None:
    plain, on = (
        layout(resolve(one).spec) for one in (asked(overlapping(), parallelism__overlap_tp=False), overlapping())
    )
    model = small_model()
    held = 12 * 2 * model.hidden * on.training.sequence
    assert estimate(on).peak_memory - estimate(plain).peak_memory == held
    assert framework_of(on).registers


def test_what_is_not_overlapped_is_exposed() -> None:
    times = {
        name: float(estimate(layout(resolve(asked(one, cluster__efficiency__launch_us=0.0)).spec)).parts.tensor)
        for name, one in {
            "both": overlapping(),
            "gather": overlapping(scatter=False),
            "scatter": overlapping(gather=False),
            "none": asked(overlapping(), parallelism__overlap_tp=False),
        }.items()
    }
    assert times["both"] < min(times["gather"], times["scatter"])
    assert max(times["gather"], times["scatter"]) < times["none"]


def test_nvidias_tables_are_the_engines_words_and_products_come_instead() -> None:
    own = TpOverlap(preset=PRESET, products=(OverlappedProduct(name="fc2_fprop", method="ring_exchange", sms=1),))
    made = products(own)
    assert made["proj_fprop"] == {
        **{"method": "pipeline", "num_sm": 24, "cga_size": 2, "set_sm_margin": True, "num_splits": 4},
        **{"atomic_gemm": False, "fp8_buf": False},
    }
    assert made["fc2_fprop"] == {"method": "ring_exchange", "num_sm": 1}
    assert len(presets()) == 17


def test_the_file_is_written_named_and_read_back(tmp_path: Path) -> None:
    own = (OverlappedProduct(name="fc2_fprop", method="ring_exchange", sms=1, sm_margin=True),)
    plan = resolve(overlapping(preset=PRESET, products=own, scatter_dgrad=True, bootstrap="gloo"))
    files = FILES["megatron"](plan)
    table = yaml.safe_load(files["megatron/tp_overlap.yaml"])
    assert table["fc2_fprop"] == {"method": "ring_exchange", "num_sm": 1, "set_sm_margin": True}
    assert '"$folder"/megatron/tp_overlap.yaml\n' in files["megatron/args.txt"]
    assert parsed(plan) == ""
    assert "tp_comm_overlap_cfg is None" in parsed(
        plan, [w for w in flags(plan) if "tp_overlap" not in w and "-cfg" not in w]
    )
    values = imported(plan, tmp_path)
    assert [one["name"] for one in values[f"{B}tp_overlap.products"]] == list(table)
    assert values[f"{B}tp_overlap.preset"] is None
    assert values[f"{B}tp_overlap.bootstrap"] == "gloo"
    assert values[f"{B}tp_overlap.scatter_dgrad"] is True


def test_a_table_of_nvidias_is_read_back_by_its_name(tmp_path: Path) -> None:
    values = imported(resolve(overlapping(preset=PRESET)), tmp_path)
    assert (values[f"{B}tp_overlap.preset"], values[f"{B}tp_overlap.products"]) == (PRESET, [])


def test_of_equal_tables_the_one_named_like_the_run_is_read(tmp_path: Path) -> None:
    eight, name = {"training__precision": "fp8_tensorwise"}, "userbuffers_fp8_h100_h8192_tp4_mbs1_seqlen8192"
    other = "userbuffers_fp8_b200_h8192_tp2_mbs1_seqlen8192"
    assert presets()[name] == presets()[other]
    assert imported(resolve(asked(overlapping(preset=other), **eight)), tmp_path)[f"{B}tp_overlap.preset"] == name


def test_what_a_file_says_is_compared_and_explained() -> None:
    one, other = (resolve(overlapping(products=(OverlappedProduct(name="fc2_fprop", sms=n),))) for n in (1, 2))
    assert {found.name: (found.a, found.b) for found in emitted(one, other)} == {
        "tp_overlap.yaml: fc2_fprop.num_sm": (1, 2)
    }
    assert "tp_overlap.yaml`: how" in readme(one, [*FILES["megatron"](one)])


def imported(plan: Any, folder: Path) -> dict[str, Any]:
    return dict(of_flags(words_in(folder, plan), "a command", 8).values)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("megatron.tp_overlap_products", {"preset": "userbuffers_bf16_h100"}),
        ("megatron.tp_overlap_products", {"products": (OverlappedProduct(name="qkv"),)}),
        ("megatron.tp_overlap_products", {"products": (OverlappedProduct(name="qkv_fprop", method="pipeline"),)}),
        ("megatron.tp_overlap_products", {"products": (OverlappedProduct(name="proj_wgrad", method="bulk"),)}),
        ("megatron.tp_overlap_products", {"products": (OverlappedProduct(name="fc1_fprop", atomic=True),)}),
        (
            "megatron.tp_overlap_products",
            {"products": tuple(OverlappedProduct(name=n, method="ring_exchange") for n in ("qkv_dgrad", "qkv_wgrad"))},
        ),
    ],
)
def test_the_engines_own_refusals_come_first(name: str, options: dict[str, Any]) -> None:
    (problem,) = refusals(overlapping(**options), "megatron")
    assert problem.rule == name


def test_options_of_an_overlap_that_is_off_are_refused() -> None:
    (problem,) = refusals(asked(overlapping(gather=False), parallelism__overlap_tp=False), "megatron")
    assert problem.rule == "megatron.tp_overlap"
    assert {f"{B}tp_overlap.gather": True} in problem.repairs


def test_megatrons_reader_gives_each_module_what_the_plan_says(tmp_path: Path) -> None:
    plan = resolve(mixed(*RULES))
    recipe = yaml.safe_load(FILES["megatron"](plan)["megatron/te_precision.yaml"])
    assert kwargs(plan)["TransformerConfig"]["quant_recipe"] == recipe
    assert json.loads(FILES["megatron"](plan)["megatron/kwargs.json"])["TransformerConfig"]["quant_recipe"] == recipe
    assert parsed(plan) == ""
    cut = [word for word in flags(plan) if "te_precision" not in word and "te-precision" not in word]
    assert "linear_proj is as the run to Megatron, the plan says bf16" in parsed(plan, cut)
    values = imported(plan, tmp_path)
    assert values[f"{B}quantization.modules"] == [{"match": r.match, "precision": r.precision} for r in RULES]


def test_a_module_in_bf16_multiplies_keeps_and_reads_16_bits() -> None:
    """Where nothing predicts ahead: that a GPTModel keeps in bf16 under 4 bits whatever is said of modules."""
    plain, own = (layout(resolve(one).spec) for one in (mixed(model__mtp=0), mixed(RULES[0], model__mtp=0)))
    s = scene(own)
    found = {o.name: o for operations in s.layers for o in operations}
    gpu = own.cluster.accelerator
    assert peak(s, found["attention.output"]) == pytest.approx(gpu.bf16_tflops * 1e12)
    assert gpu.fp4_tflops
    assert peak(s, found["attention.qkv"]) == pytest.approx(gpu.fp4_tflops * 1e12)
    assert casts(s, found["attention.output"], 1e9) == (0, 0)
    assert casts(s, found["attention.qkv"], 1e9)[0] > 0
    assert (weight_bytes(s, found["attention.output"]), weight_bytes(s, found["attention.qkv"])) == (2, 0.5625)
    assert estimate(own).peak_memory > estimate(plain).peak_memory
    kernels = framework_of(own).kernels
    assert kernels.input_bytes("attention.output") == 2
    assert kernels.input_bytes("attention.") == framework_of(plain).kernels.input_bytes("attention.") == 0.5625
    everything = layout(resolve(mixed(ModulePrecision(match="*"))).spec)
    assert framework_of(everything).kernels.input_bytes("mlp.") == 2


def test_what_stays_in_bf16_by_itself_is_counted_once() -> None:
    """A GPTModel predicts in bf16 under 4 bits, with or without a rule; a HybridModel by a rule alone."""
    plain, ruled = (framework_of(layout(resolve(one).spec)) for one in (mixed(), mixed(RULES[2])))
    ahead = 1 / (small_model().layers + 1)
    assert ruled.low_layers == plain.low_layers == pytest.approx(1 - ahead)
    assert (ruled.coded_bytes, ruled.own_precision) == (plain.coded_bytes, ())
    assert ruled.kernels.input_bytes("attention.output") == pytest.approx(2 * ahead + 0.5625 * (1 - ahead))
    built = {f"{B}model": "hybrid", "model__pattern": "8x(*-)/*-", "model__moe": None}
    hybrid = [layout(resolve(mixed(*rules, **built)).spec) for rules in ((), (RULES[2],))]
    assert [framework_of(one).low_layers for one in hybrid] == [1.0, 1.0]
    (_, parts), *_ = framework_of(hybrid[1]).own_precision
    assert dict(parts) == {"bf16": pytest.approx(ahead)}


def test_a_rule_for_a_layer_that_is_kept_in_bf16_counts_no_second_time() -> None:
    ends = {f"{B}quantization.first_layers_bf16": 1, "model__mtp": 0}
    kept, ruled, further = (
        framework_of(layout(resolve(mixed(*rules, **ends)).spec))
        for rules in (
            (),
            (ModulePrecision(match="decoder.layers.0.*"),),
            (ModulePrecision(match="decoder.layers.1.*"),),
        )
    )
    layers = small_model().layers
    assert (ruled.coded_bytes, ruled.kernels) == (kept.coded_bytes, kept.kernels)
    assert further.coded_bytes < kept.coded_bytes
    assert dict(dict(further.own_precision)["attention.output"]) == {"bf16": pytest.approx(1 / (layers - 1))}
    kept_bytes = further.kernels.input_bytes("attention.output")
    assert kept_bytes == pytest.approx(2 * 2 / layers + 0.5625 * (1 - 2 / layers))


def test_weights_of_modules_in_bf16_are_not_coded() -> None:
    plain = framework_of(layout(resolve(mixed()).spec))
    own = framework_of(layout(resolve(mixed(ModulePrecision(match="*"))).spec))
    assert own.coded_bytes < 0.2 * plain.coded_bytes  # the router and norms alone


@pytest.mark.parametrize(
    ("rule", "one"),
    [
        ("megatron.module_names", mixed(ModulePrecision(match="*.linear_q"))),
        ("megatron.module_precision", asked(mixed(RULES[0]), training__precision="bf16")),
        ("megatron.module_precision", asked(mixed(RULES[0]), training__precision="fp8_delayed")),
    ],
)
def test_what_would_do_nothing_is_refused(rule: str, one: Spec) -> None:
    (problem,) = refusals(one, "megatron")
    assert problem.rule == rule


def test_a_file_that_is_not_there_is_said() -> None:
    words = [(word, Place("run.sh", 1)) for word in ("--te-precision-config-file", "/nowhere/te.yaml", "--bf16")]
    source = of_flags(words, "a command", 8)
    assert any("--te-precision-config-file /nowhere/te.yaml" in said.message for said in source.remarks)
