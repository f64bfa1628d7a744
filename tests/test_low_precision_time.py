"""Products in 8 and 4 bits: what is gathered, read and quantized for them, and what rows of their releases say."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import isfinite

import pytest

from meshwright.cost import cost
from meshwright.cost.data_parallel import between
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.cost.products import casts, peak, weight_bytes
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.measured.rows import Row, cluster_named, environments, usable
from meshwright.model.megatron_classes import is_hybrid
from meshwright.resolver import layout, resolve
from meshwright.spec import Efficiency

BITS = "backend.megatron.quantization"
LLAMA = (
    *("model=llama3_70b", "cluster=gb200_nvl72", "cluster.gpus=64", "training.sequence=8192"),
    *("training.global_batch=128", "parallelism.tp=4", "parallelism.sp=true"),
)


def planned(*words: str) -> Plan:
    return resolve(load([*LLAMA, *words]).stages[0])


@pytest.mark.parametrize(
    ("precision", "part"),
    [
        # of inputs, outputs, gradients of outputs, inputs again and their gradients, 2 bytes each
        ("fp8_tensorwise", (1 + 2 + 1 + 1 + 2) / 10),
        ("mxfp8", (1 + 2 + 2 + 1 + 2) / 10),  # gradients in both directions
        ("nvfp4", (0.5625 + 2 + 1.125 + 0.5625 + 2) / 10),
    ],
)
def test_tensor_parallel_ranks_gather_what_products_take(precision: str, part: float) -> None:
    plain, low = (cost(planned(f"training.precision={one}")).traffic.tensor.size for one in ("bf16", precision))
    assert low / plain == pytest.approx(part)


def test_without_sequence_parallelism_sums_are_exchanged_in_16_bits() -> None:
    words = ("parallelism.sp=false", "parallelism.overlap_tp=false")
    plain, low = (
        cost(planned(f"training.precision={one}", *words)).traffic.tensor.size for one in ("bf16", "fp8_tensorwise")
    )
    assert low == plain


def test_gradients_of_outputs_are_gathered_beside_products_where_tensor_communication_is() -> None:
    """Transformer Engine overlaps proj_dgrad and fc2_dgrad, too (pytorch/module/base.py ``initialize_ub``)."""
    shown, hidden = (cost(planned(f"parallelism.overlap_tp={word}")).step.tensor for word in ("false", "true"))
    overlap = planned().spec.cluster.efficiency.overlap
    # forward 2 of 5 are exposed in full, and backward 1; the other 2 run beside products either way
    assert hidden / shown == pytest.approx((3 + 2) * (1 - overlap) / (3 + 2 * (1 - overlap)), rel=1e-6)


def test_eight_bits_reach_less_of_their_peak_on_hopper() -> None:
    for cluster, flops in (("dgx_h100", 1978.9e12 * 0.88), ("gb200_nvl72", 5000e12 * 0.99)):
        found = scene(layout(planned(f"cluster={cluster}", "training.precision=fp8_tensorwise").spec))
        assert peak(found, found.layers[0][0]) == pytest.approx(flops)


def test_weights_are_read_and_tensors_quantized_in_the_bits_of_their_products() -> None:
    for precision, read, joined in (("bf16", 2, 0), ("mxfp8", 1, 0), ("nvfp4", 0.5625, 1)):
        s = scene(layout(planned(f"training.precision={precision}").spec))
        up = next(o for o in s.layers[0] if o.name == "mlp.up")
        norm = next(o for o in s.layers[0] if o.name == "mlp.norm")
        assert (weight_bytes(s, up), weight_bytes(s, norm)) == (read, 2)
        # a norm writes 8 bits by itself; 4 bits are made of what it wrote, in three passes
        forward, _ = casts(s, up, 1.0)
        assert forward == pytest.approx(joined * s.tokens * 8192 / 4 * (3 * 2 + 2 * 0.5625 - (2 - 0.5625)) * 4)


def test_an_interleaved_stage_s_gradients_are_reduced_while_micro_batches_pass_the_next_chunk() -> None:
    """They hide as much as the fabric allows where a pipeline of one chunk has one backward pass for them."""
    words = ("parallelism.pp=4", "training.global_batch=64", "parallelism.zero=1", "cluster=dgx_h100")
    five = layout(planned(*words, "parallelism.vpp=5").spec)
    assert between(five, 3.0) == pytest.approx(3 * (1 + 4 * 4) / 5)  # four further chunks, four micro-batches each
    assert between(layout(planned(*words).spec), 3.0) == 3
    slow = (*words, "cluster.inter.bandwidth_gb_s=2")
    plain, chunks = (cost(planned(*slow, f"parallelism.vpp={vpp}")).step.data for vpp in (1, 5))
    assert chunks < plain


GPT3 = {
    **{"source": "nvidia-nemo-docs", "model": "gpt3-175b", "params_b": "174.6", "gpu": "H100-80GB", "gpus": "128"},
    **{"layers": "96", "hidden": "12288", "ffn": "49152", "heads": "96", "vocab": "51200", "seq": "2048"},
    **{"tp": "4", "pp": "8", "cp": "1", "mbs": "1", "gbs": "256", "precision": "fp8 delayed"},
}


def row(**cells: str) -> Row:
    (found,), _ = usable([{**GPT3, **cells}])
    return found


def test_rows_of_nemo_have_what_its_releases_switched_on() -> None:
    """NeMo-Framework-Launcher at 24.05: chunks, dropout and a loss in pieces, which NeMo 2 had no more."""
    old, new = row(release="24.05"), row(release="25.02")
    assert (old.spec.parallelism.vpp, new.spec.parallelism.vpp) == (12, 1)
    assert (old.spec.model.hidden_dropout, new.spec.model.hidden_dropout) == (0.1, 0.0)
    assert (old.framework.fused_loss, new.framework.fused_loss) == (False, True)
    assert old.spec.training.precision == "fp8_delayed"


@pytest.mark.parametrize(
    ("cells", "flash_2"),
    [
        ({"release": "24.05"}, True),
        ({"release": "24.05", "source": "nvidia-dgxc-benchmarking", "vpp": "12"}, True),
        ({"release": "24.12", "source": "nvidia-dgxc-benchmarking", "vpp": "6"}, False),
        ({"release": "24.07", "model": "llama3-8b"}, True),
        ({"release": "24.09", "source": "nvidia-dgxc-benchmarking", "model": "llama3-8b"}, False),
        ({"release": "24.09", "source": "nvidia-dgxc-benchmarking", "model": "nemotron4-340b"}, True),
        ({"release": "25.02.01", "source": "nvidia-dgxc-benchmarking", "model": "nemotron4-340b"}, False),
        ({"release": "24.12", "source": "nvidia-dgxc-benchmarking", "model": "grok1-314b"}, True),
        ({"release": "25.04", "source": "nvidia-dgxc-benchmarking", "model": "grok1-314b"}, False),
        ({"release": "24.09", "source": "nvidia-dgxc-benchmarking", "model": "nemotron4-15b"}, False),
        ({"release": "25.02", "gpu": "B200"}, False),
    ],
)
def test_rows_of_nemo_ran_flash_attention_2_where_its_scripts_turned_cudnn_s_off(
    cells: dict[str, str], flash_2: bool
) -> None:
    """NVTE_FUSED_ATTN of NeMo-Framework-Launcher and of dgxc-benchmarking, at each tag."""
    assert isfinite(row(**cells).framework.attention_tflops) is flash_2


def test_gradients_that_no_product_adds_to_are_added_by_kernels_of_their_own() -> None:
    eight = {"model": "nemotron4-8b", "hidden": "4096", "layers": "32", "heads": "32", "ffn": "16384", "tp": "2"}
    old, new = (row(release=one, pp="1", **eight) for one in ("24.05", "24.07"))
    assert (old.framework.fused_gradients, new.framework.fused_gradients) == (False, True)
    assert old.spec.training.grad_reduce == new.spec.training.grad_reduce == "fp32"


@pytest.mark.parametrize(
    ("name", "like", "own"),
    [
        ("alps_gh200", "dgx_h100", ()),
        ("dgx_h200", "dgx_h100", ()),
        ("h800", "dgx_h100", ()),
        ("dgx_b300", "dgx_b200", ("spread", "launch_us", "inter_link")),
    ],
)
def test_constants_that_are_another_clusters_are_its(name: str, like: str, own: tuple[str, ...]) -> None:
    known = environments().get(like)
    other = asdict(known if isinstance(known, Efficiency) else cluster_named(like).efficiency)
    one = asdict(cluster_named(name).efficiency)
    assert {key for key in one if one[key] != other[key]} == {"source", *own}


@pytest.mark.parametrize(
    ("model", "precision", "low"),
    [("deepseek_v3", "nvfp4", 61 / 62), ("deepseek_v3", "mxfp8", 1.0), ("nemotron_3_super_120b_a12b", "nvfp4", 1.0)],
)
def test_gpt_model_predicts_in_16_bits_beside_four(model: str, precision: str, low: float) -> None:
    """megatron-core 0.19.2 core/transformer/multi_token_prediction.py:1181; HybridModel's stack quantizes its own."""
    words = ("cluster.gpus=256", "training.sequence=4096", "training.global_batch=1024", "parallelism.ep=64")
    plan = load([f"model={model}", "cluster=gb200_nvl72", *words, f"training.precision={precision}"]).stages[0]
    one = layout(resolve(replace(plan, model=replace(plan.model, mtp=1))).spec)
    framework = framework_of(one)
    assert is_hybrid(one.model, one.backend.megatron) == model.startswith("nemotron")
    assert framework.low_layers == pytest.approx(low)
    kept = {"nvfp4": 0.5625, "mxfp8": 1.0}[precision]
    assert framework.kernels.low_bytes == pytest.approx(low * kept + (1 - low) * 2)


def test_layers_in_16_bits_take_longer_and_keep_more() -> None:
    few, many = (cost(planned("training.precision=mxfp8", f"{BITS}.last_layers_bf16={n}")) for n in (0, 40))
    assert many.step.compute > few.step.compute
    assert many.stages[0].activations > few.stages[0].activations
