"""The simulated step as passes and as trace events: whole, in order, nested, and as long as the plan says."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import llama_405b, small_model, spec
from meshwright.cli import main
from meshwright.cost import Cost, cost
from meshwright.cost.pipeline_time import Work
from meshwright.cost.schedule import schedule, simulate
from meshwright.cost.timeline import Timeline, timeline
from meshwright.report.trace import THREADS, trace
from meshwright.resolver import resolve

COUNTED = ("compute", "recompute", "tensor", "pipeline")


@pytest.fixture(scope="module")
def interleaved() -> tuple[Timeline, Cost]:
    plan = resolve(spec(small_model(layers=16), 16, global_batch=48, tp=2, sp=True, pp=4, vpp=2, recompute="full"))
    costs = cost(plan)
    return timeline(plan, costs.step), costs


works = st.builds(Work, st.floats(0.1, 3), st.floats(0.1, 6))


@given(st.lists(works, min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 20), st.floats(0, 0.5))
def test_folded_passes_are_those_of_the_whole_step(row: list[Work], vpp: int, groups: int, send: float) -> None:
    """A pass of the folded schedule is found in the whole one, at the same moment, and both end together."""
    pp = len(row)
    vpp = 1 if pp == 1 else vpp
    stages, microbatches = [[work] * vpp for work in row], groups * pp
    whole, folded = (schedule(stages, microbatches, send, folded=fold) for fold in (False, True))
    assert folded.seconds == pytest.approx(whole.seconds) == pytest.approx(simulate(stages, microbatches, send))
    for kept, passes in zip(folded.stages, whole.stages, strict=True):
        moments = {(one.kind, one.chunk, one.microbatch): one.end for one in passes}
        assert len(kept) == len(passes) - 2 * vpp * folded.fold.microbatches
        assert [one.end for one in kept] == pytest.approx(
            [moments[one.kind, one.chunk, one.microbatch] for one in kept]
        )


@given(st.lists(works, min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 6), st.floats(0, 0.5))
def test_a_stage_does_one_pass_at_a_time_and_each_once(row: list[Work], vpp: int, groups: int, send: float) -> None:
    pp = len(row)
    vpp = 1 if pp == 1 else vpp
    for passes in schedule([[work] * vpp for work in row], groups * pp, send).stages:
        assert all(before.end <= after.start + 1e-9 for before, after in pairwise(passes))
        assert len({(one.kind, one.chunk, one.microbatch) for one in passes}) == 2 * vpp * groups * pp


def test_a_backward_begins_after_its_forward_and_a_forward_after_the_stage_before(
    interleaved: tuple[Timeline, Cost],
) -> None:
    stages = interleaved[0].schedule.stages
    ends = {(s, p.kind, p.chunk, p.microbatch): p.end for s, passes in enumerate(stages) for p in passes}
    for (stage, kind, chunk, microbatch), end in ends.items():
        if kind == "backward":
            assert end > ends[stage, "forward", chunk, microbatch]
        elif stage:
            assert end > ends[stage - 1, "forward", chunk, microbatch]


@pytest.mark.parametrize("kind", COUNTED)
def test_parts_of_the_passes_add_up_to_the_parts_of_the_step(interleaved: tuple[Timeline, Cost], kind: str) -> None:
    """Of even stages: the mean over the stages."""
    events = _events(*interleaved)
    total = sum(event["dur"] for event in events if event["name"] == kind) / 4
    assert total / 1e6 == pytest.approx(float(getattr(interleaved[1].step, kind)), rel=1e-4)


def test_the_trace_ends_with_the_step(interleaved: tuple[Timeline, Cost]) -> None:
    ends = [event["ts"] + event["dur"] for event in _events(*interleaved)]
    assert max(ends) / 1e6 == pytest.approx(interleaved[1].step_time, rel=1e-6)


def test_events_of_a_thread_nest_and_threads_are_named(interleaved: tuple[Timeline, Cost]) -> None:
    threads = defaultdict(list)
    for event in _events(*interleaved):
        threads[event["pid"], event["tid"]].append(event)
    for events in threads.values():
        assert _nested(sorted(events, key=lambda event: (event["ts"], -event["dur"])))
    named = [event for event in trace(interleaved[0], interleaved[1].traffic)["traceEvents"] if event["ph"] == "M"]
    assert len(named) == 4 * (1 + len(THREADS))


def test_uneven_stages_end_with_the_step_too() -> None:
    """Llama 3 405B: 126 layers, the embedding and the loss on 128 chunks."""
    plan = resolve(llama_405b())
    costs = cost(plan)
    found = timeline(plan, costs.step)
    assert found.ending()[-1].end == pytest.approx(costs.step_time)
    assert found.schedule.seconds == pytest.approx(found.ending()[0].start)


def test_every_kind_of_communication_has_a_thread() -> None:
    parts = {field.name for field in fields(cost(resolve(llama_405b())).step)}
    assert parts - set(THREADS) == {"recompute", "optimizer", "bubble"}


def test_plan_writes_a_trace_of_each_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "recipe=smollm2_135m", f"trace={tmp_path}/step.json.gz"]) == 0
    assert "trace: " in capsys.readouterr().err
    (path,) = tmp_path.iterdir()
    assert json.loads(gzip.decompress(path.read_bytes()))["otherData"]["run"] == "smollm2_135m"
    assert main(["plan", "recipe=llama3_405b", f"trace={tmp_path}/llama.json"]) == 0
    assert (tmp_path / "llama-gpus_16384.json").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trace={}/step.txt"], "neither in .json nor in .json.gz"),
        (["trace={}/none/step.json"], "there is no folder"),
        (["trace={}/step.json", "-m", "training.micro_batch=1,2"], "one file for 2 points"),
    ],
)
def test_a_trace_that_cannot_be_written_is_refused_first(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "model=tiny", "cluster.gpus=8", *(word.format(tmp_path) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert (said in err, out, list(tmp_path.iterdir())) == (True, "", [])


def _events(found: Timeline, costs: Cost) -> list[dict[str, Any]]:
    return [event for event in trace(found, costs.traffic)["traceEvents"] if event["ph"] == "X"]


def _nested(events: list[dict[str, Any]]) -> bool:
    """Whether each event ends within those that are open when it begins."""
    open_until: list[int] = []
    for event in events:
        start, end = round(event["ts"] * 1e3), round((event["ts"] + event["dur"]) * 1e3)
        open_until = [moment for moment in open_until if moment > start]
        if any(end > moment for moment in open_until):
            return False
        open_until.append(end)
    return True
