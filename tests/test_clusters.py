"""Clusters: peaks as their makers print them, a plan for each, and GPUs that are found by any of their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from builders import small_model, spec
from meshwright.cli import main
from meshwright.compose import CONF
from meshwright.errors import ConfigError
from meshwright.jobs import doctor
from meshwright.loading import load
from meshwright.measured.rows import usable
from meshwright.resolver import refusals, resolve
from meshwright.rules.requirements import needed
from meshwright.spec import Accelerator
from meshwright.spec.gpu_names import cluster_with, known_gpus
from meshwright.spec.training import Precision

CLUSTERS = sorted(path.stem for path in CONF.glob("cluster/*.yaml") if not path.stem.startswith("_"))

DENSE = {
    # bf16, fp8, TF32 (or fp32) in TFLOP/s without sparsity, memory in TB/s, NVLink or its like in GB/s both ways,
    # copied from the makers' data sheets apart from conf/cluster
    "V100": (125, None, 15.7, 0.9, 300),
    "A100 40GB": (312, None, 156, 1.555, 600),
    "A100 80GB": (312, None, 156, 2.039, 600),
    "A100 PCIe 80GB": (312, None, 156, 1.935, 64),
    "A800": (312, None, 156, 2.039, 400),
    "H100": (989.4, 1978.9, 494.7, 3.35, 900),
    "H100 PCIe": (756, 1513, 378, 2.0, 128),
    "H100 NVL": (1671 / 2, 3341 / 2, 835 / 2, 3.9, 128),
    "H200": (989.4, 1978.9, 494.7, 4.8, 900),
    "H20": (148, 296, 74, 4.0, 900),
    "H800": (989.4, 1978.9, 494.7, 3.35, 400),
    "GH200 144GB": (989.4, 1978.9, 494.7, 4.9, 900),
    "B200": (2250, 4500, 1100, 7.7, 1800),
    "GB200": (2500, 5000, 1250, 8.0, 1800),
    "L40S": (362.05, 733, 183, 0.864, 64),
    "RTX PRO 6000": (4000 / 8, 4000 / 4, 4000 / 16, 1.597, 128),
    "MI250X": (383 / 2, None, 95.7 / 2, 3.2768 / 2, 100),
    "MI300X": (1307.4, 2614.9, 653.7, 5.3, 896),
    "MI325X": (1307.4, 2614.9, 653.7, 6.0, 896),
    "MI355X": (2516.6, 5033.2, 157.3, 8.0, 1075.2),
}


@pytest.mark.parametrize("gpu", DENSE)
def test_peaks_are_those_of_the_data_sheet(gpu: str) -> None:
    (spec,) = load([f"cluster={cluster_with(gpu)}"]).stages
    a, (bf16, fp8, fp32, memory, link) = spec.cluster.accelerator, DENSE[gpu]
    assert a.bf16_tflops == pytest.approx(bf16, rel=1e-3)
    assert a.fp8_tflops == (pytest.approx(fp8, rel=1e-3) if fp8 else None)
    assert a.fp32_tflops == pytest.approx(fp32, rel=2e-3)
    assert a.memory_bandwidth_gb_s == pytest.approx(1000 * memory, rel=1e-3)
    assert 2 * spec.cluster.intra.bandwidth_gb_s == pytest.approx(link)


UNPUBLISHED = {"a100_pcie_40gb", "grand_teton_h100", "grand_teton_h100_96gb", "h100_nvl", "h800", "local_cpu"}


def test_a_node_has_the_cpus_and_the_memory_that_somebody_published() -> None:
    """A virtual CPU is a thread; all but what nobody has published says both, and where from."""
    stated = {name: load([f"cluster={name}"]).stages[0].cluster for name in CLUSTERS}
    assert {name for name, one in stated.items() if one.cpus_per_node == 1} == UNPUBLISHED
    assert {name for name, one in stated.items() if one.host_memory_gib == 0} == UNPUBLISHED
    for name in set(CLUSTERS) - UNPUBLISHED:
        lines = (CONF / "cluster" / f"{name}.yaml").read_text().splitlines()
        for key in ("cpus_per_node", "host_memory_gib"):
            (number,) = [at for at, line in enumerate(lines) if line.startswith(f"{key}:")]
            assert "Source: " in lines[number - 1], (name, key)
    hosts = {name: (one.cpus_per_node, one.host_memory_gib) for name, one in stated.items()}
    assert (hosts["h100_pcie"], hosts["h20"], hosts["a800"]) == ((126, 1440), (96, 2048), (64, 2048))
    assert (hosts["mi325x"], hosts["mi355x"]) == ((80, 1280), (128, 3072))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dgx_b300", "constants  those of B200 but for launch_us and inter_link (inferred), fitted on "),
        ("h20", "constants  ours: unfitted defaults (cluster.efficiency)"),
        ("gb300_nvl72", ""),
    ],
)
def test_plan_says_whose_constants_it_predicts_with(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model=tiny", f"cluster={name}", "cluster.nodes=1", "training.steps=1"]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert bool(said) == ("constants " in out)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_node_of_every_cluster_can_be_planned_for(name: str) -> None:
    (spec,) = load(["model=tiny", f"cluster={name}", "cluster.nodes=1", "training.steps=1"]).stages
    plan = resolve(spec)
    assert plan.grid.world == spec.cluster.gpus_per_node
    assert 0 < spec.cluster.accelerator.memory_gib <= 300


def test_no_accelerator_is_faster_in_fewer_bits_than_twice() -> None:
    for name in CLUSTERS:
        gpu: Accelerator = load([f"cluster={name}"]).stages[0].cluster.accelerator
        assert gpu.fp8_tflops is None or gpu.fp8_tflops == pytest.approx(2 * gpu.bf16_tflops, rel=0.02), name
        assert gpu.fp32_tflops <= gpu.bf16_tflops


@pytest.mark.parametrize(
    ("called", "cluster"),
    [
        ("NVIDIA H100 80GB HBM3", "dgx_h100"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("H100-80GB?", "dgx_h100"),
        ("A100 (80GB?)", "dgx_a100_80gb"),
        ("NVIDIA A100-SXM4-40GB", "dgx_a100_40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100_pcie_40gb"),
        ("NVIDIA A100 80GB PCIe", "a100_pcie_80gb"),
        ("Tesla V100-SXM2-16GB", "dgx1_v100_16gb"),
        ("H200-141GB", "dgx_h200"),
        ("NVIDIA GH200 480GB", "alps_gh200"),
        ("NVIDIA GH200 144G HBM3e", "gh200_nvl2"),
        ("B200-class 184GiB", "dgx_b200"),
        ("NVIDIA B300 SXM6 AC", "dgx_b300"),
        ("GB300", "gb300_nvl72"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx_pro_6000"),
        ("AMD Instinct MI300X OAM", "mi300x"),
        ("GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1a2b)", "dgx_h100"),
        ("8x H100 SXM", "dgx_h100"),
        ("h100sxm", "dgx_h100"),
        ("gb200nvl72", "gb200_nvl72"),
        ("RTX6000 Pro", "rtx_pro_6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
        ("H20-96G", "h20"),
        ("NVIDIA H20-3e", None),
        ("MI 300X", "mi300x"),
        ("TPU v5p", None),
        ("A100/H100?", None),
    ],
)
def test_a_gpu_is_found_by_what_it_is_called(called: str, cluster: str | None) -> None:
    assert cluster_with(called) == cluster


def test_every_gpu_of_conf_is_in_the_table_of_names() -> None:
    site = {"a100_jean_zay", "grand_teton_h100", "local_cpu"}  # a site's own links around a GPU that has its cluster
    named = {cluster_with(gpu) for gpu in known_gpus()}
    assert named == set(CLUSTERS) - site


def test_an_unknown_gpu_is_answered_with_those_that_are_known() -> None:
    reasons = [usable([{"row_id": "1", "gpu": gpu}])[1][0][2] for gpu in ("RTX 4090", "Intel Gaudi3")]
    assert reasons[0].startswith("no cluster describes the GPU 'RTX 4090'; known are V100, ")
    assert reasons[1] == "'Intel Gaudi3' is no GPU: what runs on the nodes asks for CUDA or ROCm"
    with pytest.raises(ConfigError, match="cluster: no option 'H200-141GB'; did you mean dgx_h200"):
        load(["cluster=H200-141GB"])


def test_doctor_names_the_cluster_of_the_gpus_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.86'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (said,) = (one for one in doctor.findings(tmp_path) if one.name == "cluster")
    assert said.found == "cluster=dgx_h200"


def test_what_amd_s_gpus_need_is_built_for_rocm() -> None:
    words = ["model=llama3_8b", "cluster.gpus=8", "training.steps=1"]
    rows = needed(load([*words, "cluster=mi300x"]).stages[0])
    assert {row.install for row in rows if row.component == "transformer_engine"} == {"build ROCm/TransformerEngine"}
    zero = [*words, "backend=deepspeed", "parallelism=zero1"]
    compilers = {gpu: {row.component for row in needed(load([*zero, f"cluster={gpu}"]).stages[0])} for gpu in ROCM}
    assert compilers == {"mi355x": {"hipcc", "ninja"}, "l40s": {"nvcc", "ninja"}}


ROCM = ("mi355x", "l40s")


# As check_mxfp8_support and check_fp8_block_scaling_support of NVIDIA's and ROCm's Transformer Engine.
PRECISIONS: dict[Precision, set[str]] = {
    "mxfp8": {"dgx_b200", "gb300_nvl72", "mi355x"},
    "fp8_blockwise": {"dgx_h100", "dgx_b200", "gb300_nvl72", "rtx_pro_6000"},
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_runs_where_transformer_engine_takes_it(precision: Precision) -> None:
    base = spec(small_model(), 8)
    asked = replace(base, training=replace(base.training, precision=precision))
    taken = set()
    for name in ("dgx_a100_80gb", "dgx_h100", "dgx_b200", "gb300_nvl72", "l40s", "rtx_pro_6000", "mi325x", "mi355x"):
        gpu = Accelerator(**yaml.safe_load((CONF / f"cluster/{name}.yaml").read_text("utf-8"))["accelerator"])
        if not refusals(replace(asked, cluster=replace(base.cluster, accelerator=gpu)), "megatron"):
            taken.add(name)
    assert taken == PRECISIONS[precision]
