"""The report's page as text: self-contained, escaped, within its size, and with the numbers of ``output=json``."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from builders import llama_405b, renamed, small_model, spec
from meshwright.cli import main
from meshwright.cost.compute import layer
from meshwright.cost.inputs import scene
from meshwright.jobs.run_folder import compile
from meshwright.report.page.charts import data, rooflines, schedule
from meshwright.report.page.compare import differences, short_titles
from meshwright.report.page.html import Page, html
from meshwright.report.page.rows import operation_rows, part_rows
from meshwright.report.page.subject import Subject
from meshwright.report.page.verdict import verdict
from meshwright.report.page.words import at, seconds
from meshwright.resolver import layout, resolve
from meshwright.spec import Spec
from meshwright.train import metrics
from test_imports_check import SCRIPT

HOSTILE = (
    "</script><script>window.taken = 1</script>",
    '"\'><img src=x onerror="window.taken=1">',
    "{{ 7 * 7 }}",
    "\u202egnorts",
    "x" * 5000,
)
LIMIT = 1_500_000  # bytes


def unpacked(page: str) -> Any:
    """The numbers that a page's scripts draw."""
    return json.loads(zlib.decompress(b64decode(re.findall(r'id="data">(.*?)</script>', page)[0])))


def subject(of: Spec) -> Subject:
    return Subject(resolve(of))


@pytest.fixture(scope="module")
def llama() -> Subject:
    return subject(llama_405b())


def test_every_number_with_a_key_is_the_one_in_the_summary(llama: Subject) -> None:
    told = re.findall(r'<data value="([^"]*)" data-key="([^"]*)"', html(Page([llama])))
    assert len(told) > 100
    assert all(str(at(llama.summary, key)) == value for value, key in told)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_whatever_it_holds(name: str) -> None:
    hostile = renamed(resolve(spec(small_model(), 8, global_batch=8)), name)
    text = html(Page([Subject(hostile)], title=name))
    assert text.count("<script") == html(Page([subject(spec(small_model(), 8, global_batch=8))])).count("<script")
    assert name in unescape(text)
    assert "<img" not in text


def test_the_policy_allows_our_scripts_and_nothing_from_outside(llama: Subject) -> None:
    policy = unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', html(Page([llama])))[0])
    assert policy.startswith("default-src 'none'")
    assert policy.count("'sha256-") == 3
    assert not re.search(r"unsafe-eval|https?:|script-src[^;]*unsafe-inline", policy)


@pytest.mark.parametrize("recipe", ["deepseek_v3", "llama3_405b", "megatron_sc21_529_6b"])
def test_a_page_stays_within_its_size(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", recipe, f"out={tmp_path}/page.html"]) == 0
    assert (tmp_path / "page.html").stat().st_size < LIMIT


def test_a_page_is_the_same_each_time(llama: Subject) -> None:
    assert html(Page([llama])) == html(Page([llama]))


def test_schedules_are_left_out_where_they_would_make_a_page_too_large(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = sum(map(len, llama.timeline.schedule.stages))
    monkeypatch.setattr("meshwright.report.page.charts.MOST_PASSES", 2 * each)
    assert [one["schedule"] is not None for one in data([llama] * 4)] == [True, True, False, False]


def test_a_drawn_schedule_is_the_simulated_one() -> None:
    """Decoded as the page does it, with what is folded away put back."""
    one = subject(spec(small_model(), 16, global_batch=400, tp=2, pp=4, vpp=2, sp=True))
    drawn, real = schedule(one), one.timeline.schedule
    assert real.fold.microbatches > 0
    for stage, passes in enumerate(real.stages):
        codes = drawn["passes"][stage]
        now = 0.0
        for i, (code, ahead, simulated) in enumerate(zip(codes[::2], codes[1::2], passes, strict=True)):
            now += ahead / 1e6
            moved = real.fold.seconds if i >= real.fold.passes[stage] else 0.0
            assert now + moved == pytest.approx(simulated.start, abs=2e-6)
            assert code // 2 % 2 == simulated.chunk
            assert code // 4 == simulated.microbatch
            assert ("forward", "backward")[code % 2] == simulated.kind


def test_a_comparison_names_what_differs_and_nothing_else() -> None:
    here = spec(small_model(), 8, global_batch=16, tp=2)
    there = replace(here, parallelism=replace(here.parallelism, tp=1, dp=None))
    found = {one.path: one.values for one in differences([subject(here), subject(there)])}
    assert found == {"parallelism.tp": (2, 1), "parallelism.dp": (4, 8)}


def test_operations_take_what_the_model_says_a_layer_takes(llama: Subject) -> None:
    s = scene(layout(llama.plan.spec))
    (kind,) = operation_rows(llama)
    together = sum(row["value"] for row in kind["rows"])
    assert together == pytest.approx(float(layer(s, s.layers[0]).forward), rel=1e-6)
    bars = {row["name"]: (row["part"], row["moving"]) for row in kind["rows"]}
    assert bars["mlp.up"][0] > 10 * bars["mlp.up"][1], "a large product is limited by the matrix units"
    assert bars["mlp.norm"][0] == 0, "a norm has no product"


def test_no_operation_is_above_the_roof(llama: Subject) -> None:
    """And each takes its FLOPs over its rate; a norm, which multiplies nothing, is no dot."""
    told = rooflines(llama)
    for point in told["points"]:
        assert point["rate"] < min(told["peak"], point["intensity"] * told["bandwidth"])
    (kind,) = operation_rows(llama)
    flops = {row["name"]: row["flops"] for row in kind["rows"]}
    assert {point["name"] for point in told["points"]} == {name for name, found in flops.items() if found}
    assert all(point["rate"] * point["seconds"] == pytest.approx(flops[point["name"]]) for point in told["points"])
    assert flops["mlp.up"] == 2 * 8192 * 2 * 53248 * 16384 / 8, "2 FLOPs a token and weight, cut by tp"


def test_the_verdict_says_whether_it_fits_how_fast_it_is_and_why(llama: Subject) -> None:
    said = verdict(llama)
    assert said.word == "May not fit"
    assert re.fullmatch(
        r"Stage 1, the fullest, needs 7\d\.\d GiB of 75\.6 GiB usable: \d\.\d GiB too much", said.memory
    )
    assert re.search(
        r"^\d+\.?\d* s a step at \d\d\.\d% MFU; \d\d% of it computes; .*pipeline bubble \(\d+%\)", said.time
    )
    small = verdict(subject(spec(small_model(), 8, global_batch=16)))
    assert (small.fits, small.word) == ("likely", "Fits")
    assert small.memory.startswith("A GPU needs")


def test_stages_of_one_recipe_go_by_their_own_names(llama: Subject) -> None:
    titled = [replace(llama, label=label) for label in ("a · one", "a · two")]
    assert short_titles(titled) == ["one", "two"]
    assert short_titles([*titled, replace(llama, label="b · one")]) == ["a · one", "a · two", "b · one"]


def test_behind_the_chart_of_a_comparison_is_its_table() -> None:
    one, other = (
        subject(spec(small_model(), 8, global_batch=16, pp=2)),
        subject(spec(small_model(), 8, global_batch=16)),
    )
    rows = {row["name"]: row["cells"] for row in part_rows([one, other])}
    assert rows["compute"] == [seconds(float(each.cost.step.compute)) for each in (one, other)]
    assert rows["pipeline bubble"][1] == "–"
    assert "context parallel, exposed" not in rows


def test_points_of_a_sweep_are_named_by_what_they_set(tmp_path: Path) -> None:
    words = ["model=tiny", "cluster.gpus=8", "parallelism.tp=1,2", f"out={tmp_path}/page.html"]
    assert main(["report", "-m", *words]) == 0
    titles = re.findall(r'<h1 id="title-\d"><bdi>(.*?)</bdi>', (tmp_path / "page.html").read_text())
    assert titles == ["parallelism.tp=1", "parallelism.tp=2"]


def test_quoted_words_are_runs_of_their_own(tmp_path: Path) -> None:
    runs = ["model=tiny cluster.gpus=8", "model=tiny cluster.gpus=16", "training.global_batch=32"]
    assert main(["report", *runs, f"out={tmp_path}/page.html"]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "cluster.<wbr>gpus" in text.partition("What differs")[2].partition("</table>")[0]


def test_values_say_whose_they_are(tmp_path: Path) -> None:
    words = ["olmo_7b", "training.optimizer.lr=1e-4", f"out={tmp_path}/page.html"]
    assert main(["report", *words]) == 0
    text = re.sub(r"<[^>]+>|\s+", " ", (tmp_path / "page.html").read_text().partition("whose it is")[2])
    assert re.search(r"training\.optimizer\.lr +0\.0001 +set here +training\.optimizer\.lr=1e-4", text)
    assert re.search(r"model\.layers +32 +published", text)


def test_a_run_folder_shows_what_was_measured_beside_what_was_predicted(tmp_path: Path) -> None:
    compile(resolve(spec(small_model(), 8, global_batch=16)), tmp_path / "run", verify=False)
    for step in range(1, 31):
        metrics.write(tmp_path / "run" / "metrics.jsonl", step=step, loss=5 / step, step_time_s=0.5, tokens_per_s=16384)
    assert main(["report", str(tmp_path / "run"), f"out={tmp_path}/page.html"]) == 0
    text = (tmp_path / "page.html").read_text()
    drawn = unpacked(text)["subjects"][0]["measured"]
    assert drawn["points"][3] == [4, 1.25, 0.5]
    assert '<td class="n">0.5 s</td>' in text


def test_a_loss_that_is_no_number_is_a_gap(tmp_path: Path) -> None:
    compile(resolve(spec(small_model(), 8, global_batch=16)), tmp_path / "run", verify=False)
    for step, loss in ((1, 5.0), (2, float("nan")), (3, float("inf"))):
        metrics.write(tmp_path / "run" / "metrics.jsonl", step=step, loss=loss)
    assert main(["report", str(tmp_path / "run"), f"out={tmp_path}/page.html"]) == 0
    assert unpacked((tmp_path / "page.html").read_text())["subjects"][0]["measured"]["points"] == [
        [1, 5.0, None],
        [2, None, None],
        [3, None, None],
    ]


def test_a_script_of_another_program_is_a_plan_whose_values_name_its_lines(tmp_path: Path) -> None:
    pytest.importorskip("tree_sitter_bash")
    file = tmp_path / "pretrain.sh"
    file.write_text(SCRIPT.replace("--mystery", "--num-query-groups 2 --mystery"))
    assert main(["report", str(file), f"{file} parallelism.tp=4", "cluster=dgx_h100", f"out={tmp_path}/page.html"]) == 0
    text = re.sub(r"<[^>]+>|\s+", " ", (tmp_path / "page.html").read_text())
    assert re.search(rf"training\.global_batch +16 +imported +{re.escape(str(file))}:9", text)
    assert re.search(r"parallelism\.tp +4 +set here", text)
    assert re.search(rf"Warning +{re.escape(str(file))}:9 +--num-query-groups 2 does nothing", text)
    assert re.search(r"--mystery +3 +line 9 +megatron-core 0.19.2 has no such flag", text)


def test_a_search_lists_its_layouts_and_why_not(tmp_path: Path) -> None:
    words = ["model=tiny", "cluster.gpus=8", "training.global_batch=32", "parallelism=auto"]
    assert main(["report", *words, f"out={tmp_path}/page.html"]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "frontier" in text
    assert re.search(r"<td>tp 8</td>(?s:.*?)slower|longer|time", text)
    assert "out=" not in re.findall(r"Measure the best: <code>(.*?)</code>", text)[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch"], "nosuch is neither a file, a folder nor a recipe"),
        (["olmo_7b", "out={}/page.pdf"], "neither in .html"),
        (["{}", "parallelism.tp=2"], "no meaning beside a run folder"),
        (["{}"], "holds no run"),
    ],
)
def test_what_cannot_be_reported_is_said(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *(word.format(tmp_path) for word in words)]) == 2
    assert said in capsys.readouterr().err
