"""What is set for one backend and lost on another: refused, or said on the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.jobs.run_folder import compile
from meshwright.resolver import override, refusals, resolve
from meshwright.rules import Rule, foreign
from meshwright.spec import Spec

LOST: dict[str, tuple[str, Any]] = {
    "megatron.offload_optimizer": ("backend.deepspeed.offload_optimizer.device", "cpu"),
    "megatron.offload_param": ("backend.deepspeed.offload_param.device", "cpu"),
    "megatron.quantized_weights": ("backend.deepspeed.quantized_weights", True),
    "megatron.quantized_gradients": ("backend.deepspeed.quantized_gradients", True),
    "megatron.bf16_states": ("backend.deepspeed.bf16_states", True),
    "deepspeed.moments": ("backend.megatron.optimizer_moments", "bf16"),
}


def with_option(rule: str) -> Spec:
    path, value = LOST[rule]
    return override(spec(small_model(), 8, zero=3), path, value)


@pytest.mark.parametrize("rule", foreign.RULES, ids=lambda rule: rule.id)
def test_what_a_backend_would_lose_it_refuses_with_a_repair(rule: Rule) -> None:
    (problem,) = [p for p in refusals(with_option(rule.id), rule.backends[0]) if p.rule == rule.id]
    assert problem.repairs
    for repair in problem.repairs:
        mended = with_option(rule.id)
        for path, value in repair.items():
            mended = override(mended, path, value)
        assert rule.id not in {p.rule for p in refusals(mended, rule.backends[0])}


def test_megatrons_own_offload_is_the_first_repair() -> None:
    base = override(with_option("megatron.offload_optimizer"), "backend.deepspeed.offload_optimizer.ratio", 0.5)
    (problem,) = [p for p in refusals(base, "megatron") if p.rule == "megatron.offload_optimizer"]
    assert problem.repairs[0] == {
        "backend.deepspeed.offload_optimizer.device": "none",
        "backend.deepspeed.offload_optimizer.ratio": 1.0,
        "backend.megatron.optimizer_offload.fraction": 0.5,
        "backend.megatron.precision_aware_optimizer": True,
        "parallelism.zero": 1,
    }


def test_a_run_folder_with_offload_has_no_files_for_megatron(tmp_path: Path) -> None:
    """They passed every check, and would have kept on the GPU what was to leave it."""
    told = override(with_option("megatron.offload_optimizer"), "backend.name", "deepspeed")
    compile(resolve(told), tmp_path, verify=False)
    assert [path.name for path in (tmp_path / "megatron").iterdir()] == ["REFUSED.txt"]
    said = (tmp_path / "megatron" / "REFUSED.txt").read_text()
    assert said.startswith("backend.deepspeed.offload_optimizer.device: cpu is for DeepSpeed; Megatron's files would")


def test_what_only_tunes_another_backend_is_said_on_the_files(tmp_path: Path) -> None:
    told = override(override(spec(small_model(), 8, zero=1), "backend.name", "deepspeed"), "training.steps", 10)
    told = override(told, "backend.deepspeed.reduce_bucket", 1000)
    plan = resolve(told)
    assert "other-backend" not in {warning.rule for warning in plan.warnings}
    compile(plan, tmp_path, verify=False)
    readme = (tmp_path / "README.md").read_text()
    assert "`megatron/` says nothing of backend.deepspeed.reduce_bucket, which megatron does not read." in readme
    assert "`deepspeed/` says nothing" not in readme
