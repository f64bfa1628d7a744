"""The report in a browser: no error, no request, the numbers of ``output=json``, ranks that tell their groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from browser import CHROMIUM, Tab, browser
from builders import renamed, small_model, spec
from meshwright.cli import main
from meshwright.jobs.run_folder import compile
from meshwright.loading import load
from meshwright.report.page.html import Page, html
from meshwright.report.page.subject import Subject
from meshwright.report.page.words import at
from meshwright.resolver import resolve
from meshwright.train import metrics
from test_page import HOSTILE

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is chromium")

LLAMA = ["llama3_405b", "stage=gpus_16384"]
PAGES = {
    "llama": LLAMA,
    "deepseek": ["deepseek_v3"],
    "deepspeed": ["model=llama3_8b", "cluster.gpus=64", "parallelism=zero3", "backend=deepspeed"],
    "comparison": ["-m", "model=llama3_8b", "cluster.gpus=64", "parallelism.tp=1,2"],
    "search": ["model=tiny", "cluster.gpus=8", "training.global_batch=32", "parallelism=auto"],
}
DRAWN = {"llama": 5, "deepseek": 6, "deepspeed": 5, "comparison": 6, "search": 6}
"""Charts to be seen on each."""

SEEN = "[...document.querySelectorAll('figure.chart')].filter((f) => f.clientWidth && f.querySelector('svg, canvas'))"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, words in PAGES.items():
        assert main(["report", *words, f"out={folder}/{name}.html"]) == 0
    return {name: folder / f"{name}.html" for name in PAGES}


def quiet(tab: Tab, page: Path) -> bool:
    """Whether the page asked for nothing but itself, and said nothing."""
    asked = [url for url in tab.requests if not url.startswith("data:")]
    assert (tab.errors, asked) == ([], [page.absolute().as_uri()])
    return True


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_draws_its_charts_and_asks_for_nothing(name: str, width: int, tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages[name], width, dark=width == 390)
    tab.wait(f"{SEEN}.length === {DRAWN[name]}")
    assert tab.run("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert quiet(tab, pages[name])


def test_numbers_are_those_of_the_json(tab: Tab, pages: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"recipe={LLAMA[0]}", LLAMA[1], "output=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    tab.open(pages["llama"])
    shown = tab.run("[...document.querySelectorAll('data[data-key]')].map((d) => [d.dataset.key, d.value])")
    assert {key: float(value) for key, value in shown} == {key: float(at(told, key)) for key, _ in shown}
    assert len(shown) > 100


def test_16384_ranks_are_drawn_in_under_two_seconds_and_name_their_groups(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["llama"])
    assert float(tab.run("document.querySelector('[data-chart=ranks]').dataset.drawn")) < 2000
    tab.fill(".rank", "4409")
    said, grid = tab.text(".standing"), resolve(load([f"recipe={LLAMA[0]}", LLAMA[1]]).stages[0]).grid
    assert "rank 4,409: node 551, GPU 1" in said
    for axis in ("tp", "dp", "pp"):
        group = grid.dense.group(4409, axis)
        assert f"{axis} {grid.coordinates(4409)[axis]}: ranks {group[0]}" in said
        assert str(group[-1]) in said


def test_pointing_at_60_places_keeps_the_page_awake(tab: Tab, pages: dict[str, Path]) -> None:
    """A move takes less of the page's own time than a long task (50 ms), however busy the machine is with others."""
    tab.open(pages["llama"])
    left, top, width, height = tab.box("[data-chart=ranks] canvas")
    told, before = set(), tab.busy_s()
    for i in range(60):
        tab.move(left + 60 + i * (width - 120) / 60, top + 20 + i * (height - 60) / 60)
        tab.frames(1)
        told.add(tab.run("document.querySelector('.standing b')?.innerText"))
    assert len(told) > 20
    assert (tab.busy_s() - before) / 60 < 0.05


def test_a_pass_of_the_timeline_says_what_it_is(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["llama"])
    left, top, _, _ = tab.box("[data-chart=schedule] canvas")
    tab.move(left + 150, top + 100)
    tab.frames(1)
    assert tab.text("#tip").startswith("stage 3, chunk")


def test_keys_move_over_the_ranks(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["deepspeed"])
    tab.run("document.querySelector('[data-chart=ranks] canvas').focus()")
    for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
        tab.key(key)
    assert tab.text(".standing b") == "rank 9: node 1, GPU 1"


def test_keys_zoom_into_the_timeline_and_back(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["llama"])
    canvas = "document.querySelector('[data-chart=schedule] canvas')"
    drawn = [tab.run(f"{canvas}.focus(); {canvas}.toDataURL()")]
    for key in ("+", "ArrowRight", "0"):
        tab.key(key)
        tab.frames(2)
        drawn.append(tab.run(f"{canvas}.toDataURL()"))
    whole, nearer, moved, again = drawn
    assert len({whole, nearer, moved}) == 3
    assert again == whole


def test_on_paper_every_plan_is_drawn_and_nothing_is_cut(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["comparison"])
    tab.send("Emulation.setEmulatedMedia", media="print")
    tab.wait(f"{SEEN}.length === 11")  # both plans' five, and what is set side by side
    assert tab.run("getComputedStyle(document.querySelector('.tall')).maxHeight") == "none"
    tab.send("Emulation.setEmulatedMedia", media="")


def test_layouts_of_a_search_are_sorted_and_filtered(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["search"])
    shown = "[...document.querySelectorAll('#choices-0 tbody tr:not([hidden]) td:nth-child(4)')]"
    memory = f"{shown}.map((cell) => Number(cell.dataset.sort))"
    tab.run("document.querySelectorAll('#choices-0 th button')[3].click()")
    assert tab.run(memory) == sorted(tab.run(memory))
    before = tab.run(f"{shown}.length")
    tab.fill("[data-filters=choices-0]", "frontier")
    assert 0 < tab.run(f"{shown}.length") < before


@pytest.mark.parametrize("name", HOSTILE, ids=["script", "attribute", "template", "right to left", "long"])
def test_a_hostile_name_does_nothing(name: str, tab: Tab, tmp_path: Path) -> None:
    hostile = Subject(renamed(resolve(spec(small_model(), 8, global_batch=8)), name))
    page = tmp_path / "page.html"
    page.write_text(html(Page([hostile, replace(hostile, label=f"{name} again")], title=name)))
    tab.open(page)
    assert tab.run("[typeof window.taken, document.images.length]") == ["undefined", 0]
    assert tab.run("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert quiet(tab, page)


def test_a_run_shows_its_loss(tab: Tab, tmp_path: Path) -> None:
    compile(resolve(spec(small_model(), 8, global_batch=16)), tmp_path / "run", verify=False)
    for step in range(1, 31):
        metrics.write(tmp_path / "run" / "metrics.jsonl", step=step, loss=5 / step, step_time_s=0.5, tokens_per_s=16384)
    assert main(["report", str(tmp_path / "run"), f"out={tmp_path}/page.html"]) == 0
    tab.open(tmp_path / "page.html")
    tab.wait("document.querySelector('[data-chart=loss] svg path')")
    assert quiet(tab, tmp_path / "page.html")
