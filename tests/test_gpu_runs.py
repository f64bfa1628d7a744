"""docs/gpu.md: every run of its list can be launched, and what a run folder measured stands in it."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from meshwright.cost import cost
from meshwright.loading import load
from meshwright.resolver import resolve

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
gpu_runs: Any = import_module("gpu_runs")
LISTED: dict[str, list[str]] = dict(gpu_runs.listed())
KNOWN: dict[str, Any] = json.loads(gpu_runs.RUNS.read_text())


@pytest.mark.parametrize("name", LISTED)
def test_a_run_of_the_list_fits_one_gpu(name: str) -> None:
    costs = cost(resolve(load([*LISTED[name], f"name={name}"]).stages[0]))
    assert costs.fit_probability > 0.9


def test_the_page_is_what_the_runs_say() -> None:
    assert KNOWN.keys() <= LISTED.keys()
    written = gpu_runs.TARGET.read_text()
    assert written == "\n".join(gpu_runs.page(LISTED, KNOWN)) + gpu_runs.NEVER
    assert written.count("never run |") == len(LISTED) - len(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_what_ran_is_predicted(name: str) -> None:
    costs = cost(resolve(load(LISTED[name]).stages[0]))
    assert costs.step_time == pytest.approx(KNOWN[name]["step_time_s"], rel=0.1)
    assert costs.peak_memory / 2**30 == pytest.approx(KNOWN[name]["allocated_gib"], rel=0.03)


def test_a_run_folder_is_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from meshwright.jobs.run_folder import compile
    from meshwright.train import machine, metrics

    for name, path in (("RUNS", tmp_path / "runs.json"), ("TARGET", tmp_path / "gpu.md")):
        monkeypatch.setattr(gpu_runs, name, path)
    (tmp_path / "runs.json").write_text("{}")
    plan = resolve(load([*LISTED["gqa"], "name=gqa"]).stages[0])
    folder = tmp_path / "gqa"
    compile(plan, folder, verify=False)
    for step in range(1, 21):
        memory = {"peak_allocated_bytes": 50 * 2**30, "peak_reserved_bytes": 55 * 2**30}
        rate = plan.batch.tokens / 0.5
        metrics.write(folder / "metrics.jsonl", step=step, loss=2.0, step_time_s=0.5, tokens_per_s=rate, **memory)
    said = {"gpu": "NVIDIA H100 80GB HBM3", "started": "2026-12-01T00:00:00Z", "versions": {"torch": "2.13.0"}}
    (folder / machine.FILE).write_text(json.dumps(said))
    gpu_runs.main([str(folder)])
    (line,) = [line for line in (tmp_path / "gpu.md").read_text().splitlines() if line.startswith("| gqa | 0.5 ")]
    assert "| 50.0 (55.0) |" in line
    assert "NVIDIA H100 80GB HBM3, torch 2.13.0, 2026-12-01" in line
