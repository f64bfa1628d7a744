"""Charts as pictures: the same bytes each time, names as they are, one plan at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders import renamed, small_model, spec
from meshwright.cli import main
from meshwright.report.page.picture import CHARTS, colours, draw
from meshwright.report.page.subject import Subject
from meshwright.resolver import resolve


@pytest.fixture(scope="module")
def folded() -> Subject:
    """400 micro-batches, of which most are left out."""
    plan = resolve(spec(small_model(), 16, global_batch=400, tp=2, pp=4, vpp=2, sp=True))
    return Subject(renamed(plan, "a <b> $x_1$"))


@pytest.mark.parametrize("chart", CHARTS)
def test_a_picture_is_the_same_each_time_and_names_its_plan(chart: str, folded: Subject, tmp_path: Path) -> None:
    for name in ("once.svg", "again.svg"):
        draw(chart, folded, tmp_path / name)
    text = (tmp_path / "once.svg").read_text()
    assert text == (tmp_path / "again.svg").read_text()
    assert "a &lt;b&gt; $x_1$: tp 2, pp 4, vpp 2, dp 2" in text


def test_a_timeline_says_what_is_left_out(folded: Subject, tmp_path: Path) -> None:
    draw("timeline", folded, tmp_path / "timeline.svg")
    omitted = folded.timeline.schedule.fold.microbatches
    assert omitted > 100
    assert f"{omitted:,} micro-batches like these left out" in (tmp_path / "timeline.svg").read_text()


def test_the_memory_has_its_limit(folded: Subject, tmp_path: Path) -> None:
    draw("memory", folded, tmp_path / "memory.svg")
    assert "75.6 GiB usable" in (tmp_path / "memory.svg").read_text()


def test_colours_are_those_of_the_page() -> None:
    assert {"c-forward", "c-backward", "c-activations", "bad", "text"} <= colours().keys()


def test_report_writes_a_png(tmp_path: Path) -> None:
    words = ["model=tiny", "cluster.gpus=8", "format=png", "chart=ranks"]
    assert main(["report", *words, f"out={tmp_path}/ranks.png"]) == 0
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_of_one_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "llama3_405b", "format=svg", f"out={tmp_path}/all.svg"]) == 2
    assert "a picture is of one plan" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
