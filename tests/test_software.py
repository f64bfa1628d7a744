"""The group ``software``: what the nodes have decides defaults, and what they lack is refused with the repair."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from meshwright.cli import main
from meshwright.errors import ConfigError
from meshwright.jobs.doctor import software as described
from meshwright.library.files import option
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.rules.requirements import DEFAULTS, REQUIREMENTS
from meshwright.spec import Software, Spec
from meshwright.spec.decode import decode
from meshwright.spec.software import COMPONENTS
from meshwright.train.installed import installed

H100 = ["model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "training.steps=10"]
DEEPSPEED = ["backend=deepspeed", "parallelism=zero1"]


def spec(*words: str) -> Spec:
    return load([*H100, *words]).stages[0]


def test_a_default_follows_from_what_the_nodes_have() -> None:
    assert not spec().backend.megatron.gradient_accumulation_fusion
    assert spec("software=ngc").backend.megatron.gradient_accumulation_fusion
    without = ["software.components.transformer_engine=null", "software.components.nvcc=null"]
    assert spec(*without).backend.megatron.transformer == "local"
    assert spec().backend.megatron.transformer == "transformer_engine"
    assert not spec(*DEEPSPEED).backend.deepspeed.torch_adam
    assert spec(*DEEPSPEED, *without).backend.deepspeed.torch_adam
    assert not spec("software=ngc", "backend.megatron.gradient_accumulation_fusion=false").backend.megatron.extra


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["backend.megatron.gradient_accumulation_fusion=true"],
            ["needs APEX, which software=pip lacks; set backend.megatron.gradient_accumulation_fusion=false, or build"],
        ),
        (
            ["training.precision=mxfp8", "software.components.transformer_engine='2.0.0'"],
            ["needs Transformer Engine 2.1.0, which software=pip has 2.0.0; set training.precision=bf16"],
        ),
        (
            [*DEEPSPEED, "backend.deepspeed.torch_adam=false", "software.components.nvcc=null"],
            ["needs nvcc, which software=pip lacks; set backend.deepspeed.torch_adam=true, or the CUDA toolkit"],
        ),
        (
            ["model=mixtral_8x7b", "backend.megatron.moe_dispatcher=flex", "software.components.deep_ep=null"],
            ["backend.megatron.moe_dispatcher: needs DeepEP, which software=pip lacks"],
        ),
        (
            ["launch.resiliency.launcher=ft_launcher"],
            [
                "launch.resiliency.launcher: needs nvidia-resiliency-ext 0.6.0, which software=pip lacks; set "
                "launch.resiliency.launcher=torchrun, or pip install 'nvidia-resiliency-ext>=0.6.0'"
            ],
        ),
        (
            ["launch.resiliency.launcher=ft_launcher", "software.components.resiliency='0.5.0'"],
            ["needs nvidia-resiliency-ext 0.6.0, which software=pip has 0.5.0; set launch.resiliency.launcher"],
        ),
        (
            ["backend.megatron.extra=[--log-straggler]", "software.components.nvml=null"],
            ["backend.megatron.extra: needs nvidia-ml-py, which software=pip lacks; set backend.megatron.extra=[]"],
        ),
    ],
)
def test_what_the_nodes_lack_is_refused_in_a_line_with_the_repair(words: list[str], lines: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(spec(*words))
    said = [str(problem) for problem in refused.value.problems]
    assert len(said) == len(lines)
    assert all(line in problem for line, problem in zip(lines, said, strict=True))


def test_what_nobody_says_is_named_and_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *H100, *DEEPSPEED]) == 0
    assert "nvcc (software=pip does not say)" in capsys.readouterr().out


def test_where_there_are_no_gpus_nothing_is_needed() -> None:
    resolve(load(["model=tiny", "cluster=local_cpu", "cluster.gpus=2", "software=auto"]).stages[0])


def test_auto_asks_this_machine() -> None:
    found = spec("software=auto").software
    assert found.source.startswith("asked on ")
    assert found.components["torch"] == installed()["torch"]


def test_the_doctor_writes_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "output=software"]) == 0
    text = capsys.readouterr().out
    written = decode(Software, yaml.safe_load(text))
    assert dict(written.components) == installed()
    (tmp_path / "software").mkdir()
    (tmp_path / "software" / "mine.yaml").write_text(described("mine"))
    (mine,) = load([*H100, "software=mine"], str(tmp_path)).stages
    assert mine.software.name == "mine"


def test_pip_is_what_constraints_pins() -> None:
    lines = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pip = decode(Software, option("software", "pip")).components
    checked = {name: version for name, version in pip.items() if any(d in pins for d in COMPONENTS[name].distributions)}
    assert len(checked) >= 6
    for name, version in checked.items():
        assert version in {pins.get(distribution) for distribution in COMPONENTS[name].distributions}, name


@pytest.mark.parametrize("row", REQUIREMENTS, ids=lambda row: f"{row.component}: {row.option}")
def test_every_row_names_a_key_and_a_change(row: object) -> None:
    for words in (row.option, row.instead):  # type: ignore[attr-defined]
        path = words.partition("=")[0].split(".")
        value: object = spec()
        for name in path:
            value = getattr(value, name)
    assert row.component in COMPONENTS  # type: ignore[attr-defined]


def test_every_default_that_the_software_decides_is_null_in_the_configuration() -> None:
    from meshwright.compose import compose

    backend = compose(H100)["backend"]
    null = {(name, key) for name in ("megatron", "deepspeed") for key, value in backend[name].items() if value is None}
    open_to_it = ("bucket", "checkpoint_format", "moe_flex_sms", "moe_rank_capacity")
    left_to_megatron = {("megatron", name) for name in open_to_it}
    assert {(default.backend, default.option) for default in DEFAULTS} == null - left_to_megatron


UNREACHED = {
    "declared by the backend itself, or comes with it": """
        torch triton transformers megatron deepspeed op_builder accelerator psutil packaging yaml tqdm einops omegaconf
        importlib functools inspect math threading annotationlib absl datasets huggingface_hub safetensors functorch
        cpuinfo scipy tabulate zstandard sentencepiece tiktoken wget""",
    "inference, serving and export": """
        flashinfer flashinfer_cubin flashinfer_jit_cache flask flask_restful hypercorn quart zmq msgpack orjson
        tensorrt_llm torch_memory_saver nvshmem cupy cuda nixl diffusers llama flash_mla qtorch modelopt fairscale
        fairseq nvidia_kitchen""",
    "layers bring it, or run without it": """
        mamba_ssm causal_conv1d fla fast_hadamard_transform cudnn""",
    "other machines' accelerators": """
        habana_frameworks oneccl_bindings_for_pytorch torch_mlu torch_npu torch_sdaa torch_supa torch_supa_ext
        torch_xmlir""",
    "logging, tuning and storage that no key turns on": """
        comet_ml wandb tensorboard pynvml nvtx mup xgboost boto3 botocore datastates multistorageclient
        workload_inspector userlib liger_kernel torchembed""",
    "another name or a further part of a component": """
        transformer_engine_torch apex amp_C flashattn_hopper flash_attn_3""",
}
"""Modules that the backends import if they are there, and that no option of ours asks for, by the reason."""


def guarded(folder: Path) -> Iterator[str]:
    """What is imported where it may fail."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8", errors="replace"))):
            if isinstance(node, ast.Try) and any(map(_import_error, node.handlers)):
                yield from (name for inner in node.body for name in _imported(inner))


def _import_error(handler: ast.ExceptHandler) -> bool:
    caught = "ImportError" if handler.type is None else ast.dump(handler.type)
    return "ImportError" in caught or "ModuleNotFoundError" in caught


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", ["megatron.core", "megatron.training", "deepspeed"])
def test_the_table_knows_everything_that_a_backend_imports_if_it_is_there(package: str) -> None:
    pytest.importorskip(package.partition(".")[0])
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    required = {COMPONENTS[row.component].module for row in REQUIREMENTS}
    known = required.union(*map(str.split, UNREACHED.values()))
    assert set(guarded(Path(next(iter(found.submodule_search_locations))))) - known == set()
