"""docs/adding.md is true: a backend is its entry in the table of files and its judge; compile writes and proves it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from builders import small_model, spec
from meshwright.emit.backends import FILES
from meshwright.jobs.run_folder import compile as compile_plan
from meshwright.layout.plan import Plan
from meshwright.resolver import resolve
from meshwright.spec.identity import as_json
from meshwright.verify.verdict import Check, Verdict


def toy_files(plan: Plan) -> dict[str, str]:
    return {"toy/config.json": as_json({"tp": plan.grid.tp, "world": plan.grid.world})}


def toy_judge() -> ModuleType:
    judge = ModuleType("meshwright.verify.toy")
    judge.CHECKS = ("parsed",)  # type: ignore[attr-defined]
    judge.warm = lambda: None  # type: ignore[attr-defined]
    judge.check = lambda job: Check("parsed", True, f"world {job[1].grid.world}")  # type: ignore[attr-defined]
    judge.versions = lambda: {"toy": "1.0"}  # type: ignore[attr-defined]
    return judge


def test_a_toy_backend_compiles_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(FILES):
        monkeypatch.delitem(FILES, name)
    monkeypatch.setitem(FILES, "toy", toy_files)
    monkeypatch.setitem(sys.modules, "meshwright.verify.toy", toy_judge())
    compiled = compile_plan(resolve(spec(small_model(), 8)), tmp_path / "run")
    assert "toy/config.json" in compiled.files
    assert (tmp_path / "run" / "toy" / "config.json").read_text() == as_json({"tp": 1, "world": 8})
    (verdict,) = compiled.verdicts
    assert isinstance(verdict, Verdict)
    assert verdict.backend == "toy"
    assert verdict.versions == {"toy": "1.0"}
    assert verdict.passed
    assert verdict.checks[0].details == "world 8"
