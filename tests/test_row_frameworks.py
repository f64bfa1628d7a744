"""Rows of strangers: what is read from the name of a framework, a model, an attention kernel, a fabric."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.cost.attention import rate
from meshwright.cost.inputs import scene
from meshwright.measured.calibrate import predict_times, scenes
from meshwright.measured.predict import predict
from meshwright.measured.row_model import known_model
from meshwright.measured.rows import Row, cluster_named, layout_of, usable
from meshwright.measured.validate import judge

LLAMA = {
    **{"row_id": "a", "model": "llama2-7b", "gpu": "H100-80GB", "gpus": "16", "seq": "4096", "mbs": "2", "gbs": "32"},
    **{"tp": "1", "pp": "1", "vpp": "1", "cp": "1", "ep": "1", "zero_stage": "3", "precision": "bf16"},
    "recompute": "full",
}
QWEN = {**LLAMA, "model": "qwen3-235b-a22b", "gpus": "256", "gbs": "2048", "zero_stage": "1", "ep": "8", "etp": "1"}


def row(record: dict[str, str] = LLAMA, **cells: str) -> Row:
    (found,), _ = usable([{**record, **cells}])
    return found


def seconds(*rows: Row) -> list[float]:
    return [float(t) for t in predict(rows)[0]]


@pytest.mark.parametrize(
    ("framework", "backend", "engine"),
    [
        ("", "megatron", "transformer_engine"),
        ("Megatron-LM", "megatron", "transformer_engine"),
        ("DeepSpeed ZeRO-3 (Hugging Face)", "deepspeed", "local"),
        ("XTuner", "deepspeed", "local"),
        ("PyTorch FSDP2", "megatron", "local"),
        ("Megatron-DeepSpeed", "megatron", "local"),
        ("InternEvo", "megatron", "local"),
    ],
)
def test_a_framework_is_told_by_its_column_where_the_source_is_unknown(framework, backend, engine):
    found = row(framework=framework).spec.backend
    assert (found.name, found.megatron.transformer) == (backend, engine)


def test_fsdp_is_torch_s_with_the_kernels_of_eager_modules():
    eager, compiled = row(framework="PyTorch FSDP"), row(framework="PyTorch FSDP", fusions="compile")
    assert eager.spec.backend.megatron.fsdp == "torch"
    assert (eager.framework.kernels.norm, compiled.framework.kernels.norm) == (False, True)
    assert eager.framework.fsdp2


def test_a_source_of_ours_keeps_its_own_practice():
    assert row(source="llm-foundry", framework="DeepSpeed").spec.backend.name == "megatron"


def test_experts_are_one_product_in_torchtitan_and_prime_rl_alone():
    launches = [row(QWEN, framework=f).framework.expert_launches for f in ("torchtitan", "prime-rl", "PyTorch FSDP")]
    assert launches[:2] == [0, 0]
    assert launches[2] > 0


def test_a_row_s_prediction_does_not_depend_on_the_rows_beside_it():
    """BigScience measured the whole process; the same layout of another source did not."""
    shared = {"framework": "Megatron-DeepSpeed", "gpu": "A100-80GB", "zero_stage": "1"}
    alone, _ = judge([{**LLAMA, **shared, "source": "x"}])
    both, _ = judge([{**LLAMA, **shared, "source": s} for s in ("bigscience", "x")])
    assert both[1].peak_memory == alone[0].peak_memory


def test_fp16_is_summed_in_fp16_by_megatron_deepspeed_and_bf16_in_fp32():
    """DeepSpeed's ZeRO sums what the backward leaves; its BF16_Optimizer has fp32 sums. Both all-reduce in the end."""
    made = [row(LLAMA, framework="Megatron-DeepSpeed", precision=p, zero_stage="1").framework for p in ("fp16", "bf16")]
    assert [f.gradient_bytes for f in made] == [2, 4]
    assert [f.reduces_after for f in made] == [1, 1]
    assert row(LLAMA, framework="gpt-neox", precision="fp16", gradients="fp32").framework.gradient_bytes == 4


def test_an_unknown_family_is_gated_where_its_parameters_say_so():
    sizes = {"model": "ours-7b", "layers": "32", "hidden": "4096", "ffn": "11008", "heads": "32", "vocab": "103168"}
    gated, plain = (row({**LLAMA, **sizes}, params_b=billions).spec.model for billions in ("7.32", "5.88"))
    assert (gated.activation, gated.norm, gated.positions) == ("swiglu", "rmsnorm", "rope")
    assert (plain.activation, plain.norm) == ("gelu", "layernorm")
    assert row({**LLAMA, **sizes, "model": "internlm-7b"}).spec.model.activation == "swiglu"


@pytest.mark.parametrize(
    ("layers", "pp", "first", "last"),
    [("32", "4", 9, 7), ("30", "4", 8, 7), ("16", "16", 2, 0), ("32", "1", None, None)],
)
def test_a_stage_of_nanotron_s_ends_with_the_layer_that_is_over_its_share(layers, pp, first, last) -> None:
    """src/nanotron/models/base.py:234 at 67c5ebb6: of 30 layers stages get 8, 8, 7 and 7."""
    split = row(framework="nanotron", layers=layers, pp=pp, zero_stage="1").spec.parallelism.pipeline_split
    assert (split.first, split.last) == (first, last)


@pytest.mark.parametrize("layers", ["94", ""])
def test_two_layers_fewer_than_divide_leave_a_place_at_each_end(layers):
    """Qwen3 235B on a pipeline of 32, 3 chunks each: 94 layers, embedding and loss."""
    split = row(QWEN, layers=layers, pp="32", vpp="3").spec.parallelism.pipeline_split
    assert (split.embedding, split.loss) == (True, True)


def attention(found: Row) -> float:
    return float(rate(scene(layout_of(found.spec), found.framework)))


@pytest.mark.parametrize(
    ("gpu", "kernels", "reached"),
    [
        ("H100-80GB", "flash_attention_2", 0.35),
        ("H100-80GB", "SDPA flash", 0.35),
        ("H100-80GB", "FlexAttn", 0.3045),
        ("H100-80GB", "flash_attention_3", cluster_named("dgx_h100").efficiency.attention),
        ("H100-80GB", "", cluster_named("dgx_h100").efficiency.attention),
        ("B200", "FA2", 0.154),
        ("A100-80GB", "FA2", 0.402),
    ],
)
def test_flash_attention_2_is_no_faster_on_later_gpus(gpu: str, kernels: str, reached: float) -> None:
    assert attention(row(gpu=gpu, attn_impl=kernels)) == pytest.approx(reached, abs=1e-3)


def test_constants_fitted_to_flash_attention_2_have_it_already() -> None:
    fitted = row(source="llm-foundry", attn_impl="FA2")
    assert attention(fitted) == fitted.spec.cluster.efficiency.attention == attention(row(source="llm-foundry"))


def test_a_fit_knows_whose_attention_ran() -> None:
    """Constants in which a fit tries faster attention make FlashAttention-2 no faster."""
    rows = [row(attn_impl="flash_attention_2"), row()]
    usual, fast = (replace(rows[0].spec.cluster.efficiency, attention=part) for part in (0.5, 0.8))
    (old, new), (old_tried, new_tried) = (predict_times(scenes(rows), 2, tried) for tried in (usual, fast))
    assert (old_tried == old, new_tried < new) == (True, True)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("meta-llama/Meta-Llama-3-8B", "llama3_8b"),
        ("LLaMA 2 13B", "llama2_13b"),
        ("Llama-2-7b-hf", "llama2_7b"),
        ("Llama-3.3-70B-Instruct", "llama3_70b"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3_235b_a22b"),
        ("Qwen2.5 72B", "qwen2_5_72b"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral_8x7b"),
        ("Yi-34B-200K", "yi_34b"),
        ("Llama-4-Scout-17B-16E", "llama4_scout_109b"),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "nemotron_3_nano_30b_a3b"),
        ("DeepSeek-V3-671B", "deepseek_v3"),
        ("deepseek-v3-16b", None),
        ("llama3-7b", None),
    ],
)
def test_models_by_the_names_that_people_write(name, known):
    found = known_model(name)
    assert (found.name if found else None) == known


@pytest.mark.parametrize(
    ("written", "kind", "modules"),
    [
        ("True", "full", None),
        ("no", "none", None),
        ("uniform", "full", None),
        ("mla_up_proj+mlp", "selective", ("mla_up_proj", "mlp")),
        ("selective(moe_act,layernorm)", "selective", ("moe_act", "layernorm")),
        ("norm, moe_act, shared_expert", "selective", ("layernorm", "moe_act", "shared_experts")),
        ("op SAC", "selective", ("layernorm", "act", "second_matmul")),
    ],
)
def test_recomputation_as_people_write_it(written, kind, modules):
    p = row(recompute=written).spec.parallelism
    assert (p.recompute, p.recompute_modules) == (kind, modules)


@pytest.mark.parametrize(
    ("written", "precision"),
    [
        ("MX-FP8", "mxfp8"),
        ("FP8-DS", "fp8_delayed"),
        ("FP8-SC", "fp8_blockwise"),
        ("FP8-CS", "fp8_tensorwise"),
        ("FP4", "nvfp4"),
        ("half", "fp16"),
    ],
)
def test_precisions_as_people_write_them(written, precision):
    assert row(precision=written).spec.training.precision == precision


@pytest.mark.parametrize(
    ("framework", "written", "stage"),
    [
        ("", "", 0),
        ("", "ZeRO-3", 3),
        ("", "FSDP", 3),
        ("PyTorch FSDP", "", 3),
        ("Megatron-Bridge", "", 1),
        ("", "1.0", 1),
    ],
)
def test_a_stage_of_zero_as_people_write_it_or_their_framework_has_it(framework, written, stage):
    assert row(framework=framework, zero_stage=written).spec.parallelism.zero == stage


def test_a_fabric_and_hybrid_sharding_are_columns():
    plain, thin = row(), row(inter_gb_s="6.25")
    shared = row(inter_gb_s="6.25", optimizer_instances="2")
    assert (plain.spec.cluster.inter.bandwidth_gb_s, thin.spec.cluster.inter.bandwidth_gb_s) == (50, 6.25)
    assert shared.spec.parallelism.optimizer_instances == 2
    slow, slower, within = seconds(plain, thin, shared)
    assert slower > within
    assert slower > slow
    _, (_, memory_of_one, memory_of_two), _ = predict([plain, thin, shared])
    assert memory_of_two > memory_of_one
