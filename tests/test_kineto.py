"""A measured step beside the simulated one: torch's own profile of a step on the CPU, set at the step's start."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cli import main
from meshwright.cost import cost
from meshwright.cost.timeline import timeline
from meshwright.errors import ConfigError
from meshwright.jobs.profiles import profiles, read
from meshwright.jobs.run_folder import compile
from meshwright.report.kineto import beside
from meshwright.report.trace import trace
from meshwright.resolver import resolve
from meshwright.train import metrics

torch = pytest.importorskip("torch")

STAGES = spec(small_model(layers=4), 4, global_batch=8, pp=2)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which rank 2, the first of the second stage, was profiled by torch's own schedule."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    compile(resolve(STAGES), folder, verify=False)
    metrics.write(folder / "metrics.jsonl", step=1, loss=5.0, step_time_s=0.5)
    place = folder / "torch_profile" / "rank-2.json.gz"
    place.parent.mkdir()
    plan = torch.profiler.schedule(wait=0, warmup=1, active=2)
    layer = torch.nn.Linear(64, 64)
    with torch.profiler.profile(schedule=plan, on_trace_ready=lambda p: p.export_chrome_trace(str(place))) as found:
        for _ in range(3):
            layer(torch.randn(8, 64)).sum().backward()
            found.step()
    return folder


@pytest.fixture(scope="module")
def merged(profiled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``report`` writes of it."""
    out = tmp_path_factory.mktemp("out")
    assert main(["report", str(profiled), f"out={out}/page.html", f"trace={out}/step.json.gz"]) == 0
    document: dict[str, Any] = json.loads(gzip.decompress((out / "step.json.gz").read_bytes()))
    return document


def test_processes_say_whether_they_were_measured(merged: dict[str, Any]) -> None:
    names = [event["args"]["name"] for event in merged["traceEvents"] if event["name"] == "process_name"]
    predicted = [name for name in names if name.startswith("predicted, stage ")]
    assert len(predicted) == 2
    assert any(name.startswith("measured, stage 1, rank 2: ") for name in names if name not in predicted)
    assert list(merged["otherData"]["measured"].values()) == ["stage 1, rank 2"]


def test_both_begin_with_their_step(merged: dict[str, Any]) -> None:
    spans = [event for event in merged["traceEvents"] if event["ph"] == "X"]
    measured = [event for event in spans if event["pid"] >= 1000]
    assert min(event["ts"] for event in spans if event["pid"] < 1000) == 0
    assert min(event["ts"] for event in measured) == 0
    (first,) = [event for event in measured if event["ts"] == 0 and event["name"].startswith("ProfilerStep#")]
    assert any("mm" in event["name"] for event in measured if event["ts"] < first["dur"]), "the step holds its products"


def test_what_is_simulated_is_untouched(merged: dict[str, Any], profiled: Path) -> None:
    plan = resolve(STAGES)
    costs = cost(plan)
    alone = [e for e in trace(timeline(plan, costs.step), costs.traffic)["traceEvents"] if e["ph"] == "X"]
    assert [e for e in merged["traceEvents"] if e["ph"] == "X" and e["pid"] < 1000] == alone


def test_one_rank_stands_for_its_stage_and_flows_stay_within_a_file(profiled: Path) -> None:
    plan = resolve(STAGES)
    costs = cost(plan)
    (found,) = profiles(profiled)
    flow = {"ph": "s", "id": 7, "pid": 1, "tid": 1, "ts": 2.0**52, "name": "ac2g"}
    others = [type(found)(found.path.with_name(f"{rank}"), rank, (*found.events, flow)) for rank in (3, 1, 0, 9)]
    whole = beside(trace(timeline(plan, costs.step), costs.traffic), [found, *others], plan)
    assert list(whole["otherData"]["measured"].values()) == ["stage 0, rank 0", "stage 1, rank 2"]
    assert {event["id"] for event in whole["traceEvents"] if event.get("id") and event["name"] == "ac2g"} == {"0-7"}


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\x1f\x8b", b'{"traceEvents": 3}'])
def test_a_file_that_is_no_profile_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rank-0.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"rank-0\.json is no profile of torch's"):
        read(tmp_path / "rank-0.json")


def test_a_trace_of_several_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["olmo_7b", "smollm2_135m", f"out={tmp_path}/page.html", f"trace={tmp_path}/step.json"]
    assert main(["report", *words]) == 2
    assert "trace: a trace is of one run, here are olmo_7b, smollm2_135m" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
