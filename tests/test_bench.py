"""``meshwright bench`` on this CPU: small, and the cluster file that it writes is one that ``plan`` accepts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders import cluster, small_model, spec
from meshwright.bench.constants import collectives, machine
from meshwright.bench.measurement import Measurement, Rate
from meshwright.bench.shapes import attention, products
from meshwright.cli import main
from meshwright.loading import load
from meshwright.model.count import padded_vocab
from meshwright.resolver import resolve
from meshwright.spec.model import Moe

SMALL = [f"model.{size}" for size in ("hidden=64", "heads=4", "kv_heads=4", "head_dim=16", "vocab=512", "moe.ffn=32")]
CPU = ["cluster=local_cpu", "model=tiny", "training.sequence=64"]


def test_a_cpu_is_measured_and_planned_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    (tmp_path / "cluster").mkdir()
    path = tmp_path / "cluster" / "measured.yaml"
    assert main(["bench", *CPU, f"out={path}"]) == 0
    shown = capsys.readouterr().out
    assert {"attention.qkv", "attention", "copy", "Adam", "all_reduce"} <= set(shown.split())
    assert f"choose cluster={path.stem}" in shown
    (planned,) = load([*CPU, "cluster=measured", "cluster.gpus=2"], str(tmp_path)).stages
    assert planned.cluster.efficiency.source.startswith("measured by meshwright bench")
    assert planned.cluster.accelerator.name == "CPU"
    assert main(["plan", *CPU, "cluster=measured", "cluster.gpus=2", "--config-dir", str(tmp_path)]) == 0


def test_another_machine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "cluster=dgx_h100"]) == 2
    assert "cluster: dgx_h100 has H100-SXM5-80GB" in capsys.readouterr().err


def test_products_are_those_of_a_rank() -> None:
    plan = resolve(spec(small_model(), 8, sequence=512, tp=2))
    shapes = {p.name: (p.m, p.n, p.k) for p in products(plan)}
    vocab = padded_vocab(plan.spec.model, plan.spec.backend, 2)
    assert shapes == {
        "attention.qkv": (512, 128, 128),  # (8 + 2*4) heads of 16 over two ranks
        "attention.output": (512, 128, 64),
        "mlp.up": (512, 256, 128),  # gated
        "head": (512, vocab // 2, 128),
    }  # mlp.down has attention.qkv's shape


def test_experts_multiply_what_is_routed_to_them() -> None:
    moe = small_model(moe=Moe(experts=16, topk=2, ffn=32))
    shapes = {p.name: p for p in products(resolve(spec(moe, 8, sequence=512, ep=4)))}
    up = shapes["experts.up"]
    assert (up.count, up.m, up.n, up.k) == (4, 512 * 2 * 4 // 16, 64, 128)


def test_attention_is_that_of_a_rank() -> None:
    one = attention(resolve(spec(small_model(), 8, sequence=512, tp=2)))
    assert (one.batch, one.sequence, one.heads, one.kv_heads, one.head_dim) == (1, 512, 4, 2, 16)


def measured(flops: float, memory: float, link: float) -> list[Measurement]:
    """A machine that multiplies, copies and sends so fast, with kernels of 4 us; in units of a second."""
    work, moved = 1e12, 1e9
    took = work / flops + moved / memory + 4e-6
    told = [{"link": "intra", "name": "all_gather", "bytes": 1e9, "ranks": 2, "seconds": 0.5e9 / link}]
    return [
        Measurement("product", "mlp.up", "", took, work, moved, Rate("bf16", 989e12)),
        Measurement("product", "tiny", "", 1.0, 1e6, 1e6, Rate("bf16", 989e12)),
        Measurement("attention", "attention", "", took, work, moved, Rate("bf16", 989e12)),
        Measurement("memory", "copy", "", 1.0, memory, roof=Rate("memory", 3350e9)),
        Measurement("kernel", "tiny kernel", "", 4e-6),
        Measurement("operation", "host", "", 20e-6),
        *collectives(cluster(8), told),
    ]


def test_constants_are_found_again() -> None:
    found = machine(cluster(8), measured(700e12, 2500e9, 300e9), "here")
    e = found.efficiency
    assert [e.matmul, e.attention] == pytest.approx([700 / 989, 700 / 989])
    assert [e.memory, e.intra_link] == pytest.approx([2500 / 3350, 300 / 450])
    assert [e.kernel_us, e.launch_us] == pytest.approx([4, 20])
    assert (e.inter_link, e.source, found.peaks) == (cluster(8).efficiency.inter_link, "here", {})


def test_a_machine_faster_than_its_file_raises_its_peaks() -> None:
    found = machine(cluster(8), measured(2000e12, 2500e9, 300e9), "here")
    assert found.efficiency.matmul == 0.9
    assert found.peaks == {"accelerator.bf16_tflops": pytest.approx(2000 / 0.9)}


@pytest.mark.slow  # it measures once more what the table above shows
def test_the_json_has_every_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main(["bench", *CPU, "output=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(row["seconds"] > 0 for row in found["measurements"])
    assert 0 < found["efficiency"]["matmul"] <= 0.9


def test_a_degree_changes_the_shapes() -> None:
    one = spec(small_model(), 8, sequence=512, global_batch=8)
    less = replace(one, parallelism=replace(one.parallelism, tp=4))
    assert next(p.n for p in products(resolve(less)) if p.name == "mlp.up") == 128


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["model=tiny"], marks=pytest.mark.slow(reason="the others have all of its modules")),
        ["model=tiny", "parallelism.tp=2", "parallelism.sp=true"],
        ["model=qwen3_30b_a3b", *SMALL],
    ],
    ids=["dense", "shard", "experts"],
)
def test_a_layer_is_measured_beside_its_prediction(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With Megatron's own modules; each takes time forward and backward, and no more than the layer."""
    pytest.importorskip("megatron.training")
    assert main(["bench", "layer", "cluster=local_cpu", "training.sequence=64", *words, "output=json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["modules"]}
    whole = found["layer"]
    inner = [row for name, row in found.items() if name not in ("layer", "head")]
    assert {"self_attention.linear_qkv", "self_attention.core_attention"} <= found.keys()
    assert ("mlp.experts" if "model=tiny" not in words else "mlp.linear_fc1") in found
    assert all(min(row["predicted"]) > 0 and row["measured"][0] > 0 for row in found.values())
    assert all(row["measured"][1] > 0 for row in inner)
    assert sum(row["measured"][0] for row in inner) <= whole["measured"][0] * 1.1
