"""docs/adding.md is true.

A backend is its entry in the table of files and its judge; compile writes and proves it. A kind of layer is one module
and its line in ``model.layers``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.emit.backends import FILES
from meshwright.jobs.run_folder import compile as compile_plan
from meshwright.layout.plan import Plan
from meshwright.model.layers import MIXERS, Part
from meshwright.model.operation import FUSED, Operation, Weight
from meshwright.model.operations import parameters
from meshwright.resolver import resolve
from meshwright.spec.identity import as_json
from meshwright.verify.verdict import Check, Verdict

TOY = Part(
    symbol="T",
    operations=lambda model, _: (Operation("toy.mix", (Weight("toy.mix.weight", 3 * model.hidden, "tp"),), scores=5),),
    norm="toy.norm",
)
"""A mixer with three weights a channel, cut over tensor-parallel ranks."""


def test_a_toy_kind_of_layer_is_counted_costed_and_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, batch = small_model(), 16
    monkeypatch.setitem(MIXERS, "toy", TOY)
    mixed = resolve(spec(replace(plain, pattern="4x(T- *-)"), 8, tp=2, pp=2, global_batch=batch))
    whole = resolve(spec(plain, 8, tp=2, pp=2, global_batch=batch))
    attention = parameters(MIXERS["attention"].operations(plain, FUSED))[0]
    assert whole.total_parameters - mixed.total_parameters == 4 * (attention - 3 * plain.hidden)
    cut = parameters(MIXERS["attention"].operations(plain, FUSED), tp=2)[0] - 3 * plain.hidden // 2
    assert [a.parameters - b.parameters for a, b in zip(whole.stages, mixed.stages, strict=True)] == [2 * cut, 2 * cut]
    assert 0 < cost(mixed).step_time < cost(whole).step_time
    assert cost(mixed).peak_memory < cost(whole).peak_memory


def toy_files(plan: Plan) -> dict[str, str]:
    return {"toy/config.json": as_json({"tp": plan.grid.tp, "world": plan.grid.world})}


def toy_judge() -> ModuleType:
    judge = ModuleType("meshwright.verify.toy")
    judge.CHECKS = ("parsed",)  # type: ignore[attr-defined]
    judge.warm = lambda: None  # type: ignore[attr-defined]
    judge.check = lambda job: Check("parsed", True, f"world {job[1].grid.world}")  # type: ignore[attr-defined]
    judge.versions = lambda: {"toy": "1.0"}  # type: ignore[attr-defined]
    return judge


def toy_rules() -> ModuleType:
    rules = ModuleType("meshwright.rules.toy")
    rules.RULES = ()  # type: ignore[attr-defined]
    return rules


def test_a_toy_backend_compiles_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(FILES):
        monkeypatch.delitem(FILES, name)
    monkeypatch.setitem(FILES, "toy", toy_files)
    monkeypatch.setitem(sys.modules, "meshwright.verify.toy", toy_judge())
    monkeypatch.setitem(sys.modules, "meshwright.rules.toy", toy_rules())
    compiled = compile_plan(resolve(spec(small_model(), 8)), tmp_path / "run")
    assert "toy/config.json" in compiled.files
    assert (tmp_path / "run" / "toy" / "config.json").read_text() == as_json({"tp": 1, "world": 8})
    (verdict,) = compiled.verdicts
    assert isinstance(verdict, Verdict)
    assert verdict.backend == "toy"
    assert verdict.versions == {"toy": "1.0"}
    assert verdict.passed
    assert verdict.checks[0].details == "world 8"
