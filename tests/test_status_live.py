"""A run while it runs: the terminal's view and the small page, again and again until it is done."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from rich.console import Console

from builders import small_model, spec
from meshwright.cli import main
from meshwright.jobs.outlook import outlook, seconds_left
from meshwright.jobs.run_folder import compile
from meshwright.jobs.status import status
from meshwright.report.live import line, span, view
from meshwright.report.page.runs import runs_html
from meshwright.resolver import resolve
from meshwright.train import metrics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """100 steps, of which 30 are done, with a checkpoint every 20."""
    described = spec(small_model(), 8, global_batch=16)
    logging = replace(described.training.logging, save_interval=20)
    training = replace(described.training, steps=100, logging=logging)
    compile(resolve(replace(described, training=training)), tmp_path / "run", verify=False)
    for step in range(1, 31):
        metrics.write(
            tmp_path / "run" / "metrics.jsonl", step=step, loss=6 - step / 10, step_time_s=2.0, tokens_per_s=4096
        )
    return tmp_path / "run"


def text(folder: Path) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view([outlook(status(folder))]))
    return console.export_text()


def test_what_comes_next(folder: Path) -> None:
    found = outlook(status(folder))
    assert found.next_checkpoint == 40
    assert found.seconds_left == 70 * 2.0
    assert found.losses[-1] == 3.0


def test_before_the_first_step_the_prediction_says_how_long_it_takes(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    found = outlook(status(folder))
    assert found.status.predicted.step_time_s is not None
    assert found.seconds_left == pytest.approx(100 * found.status.predicted.step_time_s)


def test_a_chain_takes_as_long_as_its_stages(folder: Path) -> None:
    done = replace(status(folder), state="done")
    assert seconds_left([outlook(done), outlook(status(folder))]) == 140.0
    unknown = replace(outlook(done), seconds_left=None)
    assert seconds_left([unknown, outlook(done)]) is None


def test_the_view_shows_steps_loss_rate_checkpoints_and_time_left(folder: Path) -> None:
    shown = text(folder)
    for said in ("small: not running", "30 of 100, 2 min left", "█", "3.0000", "4,096 tokens/s", "next at step 40"):
        assert said in shown


def test_a_damaged_folder_is_shown_with_its_problem(folder: Path) -> None:
    (folder / "config.yaml").write_bytes(b"\xff\xfe")
    assert "config.yaml" in text(folder)


@pytest.mark.parametrize(
    ("values", "blocks"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([5, 5], "▁▁"),
        ([1, float("nan"), 2], "▁ █"),
        ([float("inf")], ""),
        ([], ""),
    ],
)
def test_a_line_of_blocks(values: list[float], blocks: str) -> None:
    assert line(values, 8) == blocks


def test_a_long_run_is_a_line_of_means() -> None:
    assert line([i // 100 for i in range(800)], 8) == "▁▂▃▄▅▆▇█"


@pytest.mark.parametrize(("seconds", "said"), [(8, "8 s"), (600, "10 min"), (7260, "2 h 1 min"), (5e6, "57 d 20 h")])
def test_a_time_to_wait(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_watching_ends_when_the_run_is_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: (folder / "DONE").touch())
    assert main(["status", str(folder), "--watch"]) == 0
    assert "small: done" in capsys.readouterr().out


def test_a_watched_page_asks_for_itself_until_the_run_is_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = folder.parent / "status.html"
    seen: list[str] = []

    def later(_: float) -> None:
        seen.append(page.read_text())
        (folder / "DONE").touch()

    monkeypatch.setattr("time.sleep", later)
    assert main(["status", str(folder), "--watch", "output=html", f"out={page}"]) == 0
    assert ['http-equiv="refresh"' in text for text in (*seen, page.read_text())] == [True, False]
    assert "2 min left" in seen[0]
    assert [path.name for path in folder.parent.iterdir() if path.suffix == ".html"] == ["status.html"]


def test_names_are_text_in_the_page(folder: Path) -> None:
    hostile = "<script>alert(1)</script>\u202e" + "x" * 5000
    shown = runs_html([outlook(replace(status(folder), name=hostile, last_event=hostile))])
    assert "<script" not in shown
    assert hostile in unescape(shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["output=pdf"], "expected one of text, json, html"),
        (["output=json", "--watch"], "json is one document"),
        (["output=html", "out=page.txt"], "neither in .html"),
        (["--look"], "--look: unknown flag"),
    ],
)
def test_what_cannot_be_shown_is_said(
    words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(folder), *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err + shown.out
