"""Megatron-MoE-ModelZoo: its YAML with the layout of its table, its scripts with the line's own environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshwright.errors import ConfigError
from meshwright.imports.check import checked
from meshwright.imports.found import Place
from meshwright.imports.megatron import of_flags
from meshwright.imports.read import imported
from published import numbers
from published_zoo import FILES, ZOO, laid_down

pytest.importorskip("tree_sitter_bash")

PUBLISHED: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    f"{ZOO} model_configs/benchmarking/Qwen3-30B-A3B.yaml with runtime.conf": (
        "model_configs/benchmarking/Qwen3-30B-A3B.yaml",
        {},
        {"parameters": 30.5, "layout": (1, 1, 32, 8), "batch": (1, 256, 4096), "steps": 1049041, "precision": "bf16"},
    ),
    f"{ZOO} the same, with what its user exports": (
        "model_configs/benchmarking/Qwen3-30B-A3B.yaml",
        {"PP": "2", "VPP": "4", "NNODES": "8", "MBS": "2"},
        {"layout": (1, 2, 32, 8), "batch": (2, 256, 4096)},
    ),
    f"{ZOO} best_practice/qwen3/run_30b.sh, its first line, in fp8": (
        "best_practice/qwen3/run_30b.sh",
        {"program": "8"},
        {"layout": (1, 1, 32, 8), "batch": (1, 256, 4096), "recompute": "none", "precision": "fp8_blockwise"},
    ),
    f"{ZOO} its second line": (
        "best_practice/qwen3/run_30b.sh",
        {"program": "10"},
        {"layout": (1, 1, 32, 8), "batch": (4, 256, 4096), "recompute": "full"},
    ),
    f"{ZOO} its last line, which what stands before others does not reach": (
        "best_practice/qwen3/run_30b.sh",
        {},
        {"layout": (1, 1, 8, 8), "batch": (1, 256, 4096), "recompute": "selective"},
    ),
    f"{ZOO} best_practice/qwen3/run_h100_235b.sh": (
        "best_practice/qwen3/run_h100_235b.sh",
        {},
        {"parameters": 235.1, "layout": (2, 8, 16, 32), "batch": (1, 2048, 4096), "recompute": "selective", "zero": 1},
    ),
}


@pytest.mark.parametrize("source", PUBLISHED)
def test_the_layout_of_the_zoo(source: str, tmp_path: Path) -> None:
    name, answers, wanted = PUBLISHED[source]
    read = imported([laid_down(tmp_path) / name], answers)
    result = checked(read, ())
    assert [said for said in result.said if said.level == "error"] == []
    found = numbers(result)
    assert {key: found[key] for key in wanted} == wanted
    assert all(one.reason for one in read.found if one.fate == "dropped")


def test_techniques_and_environment_of_the_235b(tmp_path: Path) -> None:
    values = imported([laid_down(tmp_path) / "best_practice/qwen3/run_h100_235b.sh"]).values
    megatron = {key.removeprefix("backend.megatron."): value for key, value in values.items()}
    assert megatron["cuda_graphs.kind"] == "transformer_engine"
    assert megatron["cuda_graphs.modules"] == ["moe_router", "moe_preprocess"]
    assert (megatron["moe_dispatcher"], megatron["moe_flex_backend"]) == ("flex", "deepep")
    assert (megatron["delay_wgrad"], values["parallelism.overlap_ep"], values["parallelism.overlap_tp"]) == (True,) * 3
    assert values["parallelism.vpp"] == 4  # of 96 layers with both ends
    assert values["launch.environment"] == {
        "CUDA_DEVICE_MAX_CONNECTIONS": "32",
        "NCCL_GRAPH_REGISTER": "0",
        "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "1",
        "NVTE_BWD_LAYERNORM_SM_MARGIN": "24",
        "NVTE_FWD_LAYERNORM_SM_MARGIN": "24",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }


def test_a_script_without_its_models_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text(FILES["best_practice/qwen3/run_30b.sh"])
    with pytest.raises(ConfigError, match=r"run.sh:13: model_configs/benchmarking/Qwen3-30B-A3B.yaml is not above it"):
        imported([path])


@pytest.mark.parametrize(
    ("words", "kind", "modules"),
    [
        (
            "--cuda-graph-impl transformer_engine --cuda-graph-scope attn moe_router",
            "transformer_engine",
            ["attn", "moe_router"],
        ),
        ("--cuda-graph-impl transformer_engine --cuda-graph-scope full", "transformer_engine", []),
        ("--cuda-graph-impl local --cuda-graph-scope full_iteration", "full_iteration", []),
        ("--cuda-graph-impl local --cuda-graph-modules attn", "local", ["attn"]),
    ],
)
def test_the_former_scope_of_graphs_is_its_modules(words: str, kind: str, modules: list[str]) -> None:
    """validate_args reads it so (training/arguments.py:615)."""
    given = [(word, Place("train.sh", 1)) for word in words.split()]
    source = of_flags(given, "launch script")
    held = [source.values[f"backend.megatron.cuda_graphs.{name}"] for name in ("kind", "modules")]
    assert held == [kind, modules]
    assert [one.key for one in source.found if one.fate == "dropped"] == []
