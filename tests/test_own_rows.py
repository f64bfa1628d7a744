"""One's own measured runs, as people write them: what is read, what is skipped and why, what is fitted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.cli import main
from meshwright.measured.rows import cluster_named, read, usable

ROW = {
    "source": "ours",
    "model": "llama",
    "layers": "32",
    "hidden": "4096",
    "ffn": "14336",
    "heads": "32",
    "kv_heads": "8",
    "vocab": "128256",
    "seq": "4096",
    "gpu": "H100",
    "gpus": "16",
    "tp": "4",
    "pp": "1",
    "cp": "1",
    "ep": "1",
    "zero_stage": "1",
    "sp": "true",
    "precision": "bf16",
    "mbs": "1",
    "gbs": "64",
    "iter_time_s": "2.2",
    "tokens_per_gpu_s": "",
    "peak_mem_gib": "40",
    "oom": "false",
}


def rows_file(path: Path, *changes: dict[str, str], mark: str = "") -> Path:
    """A CSV file with one row for each mapping of changes to ``ROW``."""
    lines = [",".join(["row_id", *ROW])]
    lines += [",".join([f"r{i}", *{**ROW, **change}.values()]) for i, change in enumerate(changes)]
    path.write_text(mark + "\n".join(lines) + "\n", "utf-8")
    return path


def skipped(**cells: str) -> str:
    """Why the row with these cells is skipped."""
    rows, ((_, _, reason),) = usable([{"row_id": "a", **ROW, **cells}])
    assert not rows
    return reason


def strict(text: str) -> Any:
    """JSON, without the literals that only Python reads."""

    def refuse(literal: str) -> None:
        raise AssertionError(literal)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"iter_time_s": "soon"}, "iter_time_s = soon is no number"),
        ({"iter_time_s": "nan"}, "iter_time_s = nan is no number"),
        ({"iter_time_s": "-1"}, "iter_time_s = -1 is not positive"),
        ({"peak_mem_gib": "lots"}, "peak_mem_gib = lots is no number"),
        ({"iter_time_s": "", "tokens_per_gpu_s": "0"}, "tokens_per_gpu_s = 0 is not positive"),
        ({"heads": "0"}, "heads = 0 is not within 1"),
        ({"mbs": "0"}, "mbs = 0 is not within 1"),
        ({"mbs": "inf"}, "mbs = inf is no number"),
        ({"gpus": "16.5"}, "gpus = 16.5 is no whole number"),
        ({"oom": "maybe"}, "oom = maybe is neither true nor false"),
        ({"precision": "int4"}, "precision = int4 is none of bf16"),
        ({"recompute": "some"}, "recompute = some is none of none"),
    ],
)
def test_a_cell_that_means_nothing_skips_its_row(cells, reason):
    assert skipped(**cells).startswith(reason)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"gpus": "10"}, "tp·cp·pp = 4·1·1 does not divide the world of 10 GPUs"),
        ({"ep": "3"}, "ep = 3, etp = 1, egtp = 1, but llama has no experts"),
        ({"pp": "5", "gpus": "20"}, "32 layers do not split over pp·vpp = 5·1"),
        ({"gbs": "63"}, "63 sequences do not divide by micro_batch·dp = 1·4"),
        ({"hidden": "16"}, "model.head_dim: 0 is not a positive count"),
    ],
)
def test_numbers_that_contradict_one_another_skip_their_row(cells, reason):
    assert reason in skipped(**cells)


def test_flags_and_counts_are_read_as_pandas_writes_them():
    changes: list[dict[str, str]] = [{"sp": "True", "oom": "True"}, {"oom": "1.0"}, {"gpus": "16.0"}, {"sp": "False"}]
    rows, _ = usable([{"row_id": "a", **ROW, **cells} for cells in changes])
    assert [row.spec.parallelism.sp for row in rows] == [True, True, True, False]
    assert [row.oom for row in rows] == [True, True, False, False]
    assert [row.spec.cluster.gpus for row in rows] == [16] * 4


def test_a_byte_order_mark_is_no_part_of_a_name_and_a_nameless_row_has_its_line(tmp_path):
    assert [row["row_id"] for row in read(rows_file(tmp_path / "a.csv", {}, {}, mark="\ufeff"))] == ["r0", "r1"]
    nameless = tmp_path / "b.csv"
    nameless.write_text(f"{','.join(ROW)}\n{','.join(ROW.values())}\n")
    assert read(nameless)[0]["row_id"] == "line 2"


def test_a_broken_line_costs_itself_only(tmp_path, capsys):
    path = rows_file(tmp_path / "a.csv", {}, {"iter_time_s": "nan"})
    path.write_text(f"{path.read_text()}cut,ours,llama\n{','.join(['long', *ROW.values(), '1'])}\n")
    assert main(["validate", f"rows={path}", "output=json"]) == 0
    found = strict(capsys.readouterr().out)
    assert [row["row_id"] for row in found["rows"]] == ["r0"]
    assert [skip["reason"].split(":")[0] for skip in found["skipped"]] == [
        "iter_time_s = nan is no number",
        "the line ends early",
        "the line has more cells than the header has columns",
    ]
    assert main(["validate", f"rows={path}"]) == 0
    assert "skipped 1: iter_time_s = nan is no number (r1)" in capsys.readouterr().out


def test_a_file_without_rows_says_so(tmp_path, capsys):
    assert main(["validate", f"rows={rows_file(tmp_path / 'a.csv')}"]) == 2
    assert "a.csv has no rows" in capsys.readouterr().err


TIMED: tuple[dict[str, str], ...] = ({}, {"tp": "2", "iter_time_s": "2.0"}, {"tp": "8", "iter_time_s": "3"})


def test_calibrate_fits_a_cluster_of_a_config_dir_and_lists_what_it_leaves_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "ours.yaml").write_text("defaults:\n  - dgx_h100\n  - _self_\nname: ours\n")
    rows_file(tmp_path / "a.csv", *TIMED, {"iter_time_s": "nan"}, {"iter_time_s": ""}, {"gpu": "A100-80GB"})
    assert main(["calibrate", "rows=a.csv", "cluster=ours", "--config-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "iter_time_s = nan is no number (r3)" in out
    assert "no step time: neither iter_time_s nor tokens_per_gpu_s (r4)" in out
    assert "measured on A100-80GB; the GPU of ours is H100-SXM5-80GB (r5)" in out
    path = tmp_path / "cluster" / "ours_calibrated.yaml"
    assert out.startswith(f"wrote {path}; use it with --config-dir {tmp_path} cluster=ours_calibrated\n")
    assert "3 rows for 9 constants: what they do not tell stays near the cluster's own" in out
    assert yaml.safe_load(path.read_text())["defaults"] == ["ours", "_self_"]


def test_what_calibrate_wrote_is_chosen_as_it_says(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "a.csv", *TIMED)
    assert main(["calibrate", "rows=a.csv", "cluster=dgx_h100", "output=json"]) == 0
    words = shlex.split(strict(capsys.readouterr().out)["choose"])
    assert main(["plan", "model=tiny", "cluster.gpus=8", *words]) == 0
    assert "of dgx_h100_calibrated" in capsys.readouterr().out


def test_calibrate_writes_over_its_own_file_and_over_no_edited_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "a.csv", *TIMED)
    for _ in range(2):
        assert main(["calibrate", "rows=a.csv", "cluster=dgx_h100"]) == 0
    path = tmp_path / "cluster" / "dgx_h100_calibrated.yaml"
    edited = path.read_text().replace("spread: ", "spread: 1")
    path.write_text(edited)
    assert main(["calibrate", "rows=a.csv", "cluster=dgx_h100"]) == 2
    assert "was changed since calibrate wrote it" in capsys.readouterr().err
    assert path.read_text() == edited


def test_one_group_does_not_narrow_the_spread(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "a.csv", *TIMED)
    assert main(["calibrate", "rows=a.csv", "cluster=dgx_h100", "output=json"]) == 0
    found = strict(capsys.readouterr().out)
    assert found["left_out"] == []
    assert found["efficiency"]["spread"] >= cluster_named("dgx_h100").efficiency.spread
    assert main(["calibrate", "rows=a.csv", "cluster=dgx_h100"]) == 0
    assert "no interval is known" in capsys.readouterr().out


def test_rows_of_another_gpu_are_not_enough(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "a.csv", *TIMED)
    assert main(["calibrate", "rows=a.csv", "cluster=dgx_a100_80gb"]) == 2
    assert "0 of 3 rows can be fitted; most often: measured on H100" in capsys.readouterr().err
    assert not (tmp_path / "cluster").exists()


def test_a_file_needs_no_sizes_of_models_that_are_known(tmp_path, capsys):
    """DeepSeek V3 with its experts, Kimi K2 with its prefix of the precision, and why V4 cannot be."""
    file = tmp_path / "rows.csv"
    lines = [
        "model,gpu,gpus,tp,pp,mbs,gbs,seq,precision,ep",
        "Kimi-K2,GB300,256,1,4,2,4096,4096,FP8-MX,64",
        "DeepSeek-V3,B200 SXM6 192GB,256,1,16,1,2048,4096,FP8 (blockwise),8",
        "DeepSeek-V4-Flash,GB300,128,1,1,1,2048,4096,mxfp8,64",
        "mine,H100 SXM,8,1,1,1,8,2048,bf16,1",
    ]
    file.write_text("\n".join(lines))
    assert main(["validate", f"rows={file}", "output=json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["row_id"] for row in result["rows"]] == ["line 2", "line 3"]
    reasons = [skip["reason"] for skip in result["skipped"]]
    assert reasons == ["its attention is not described by a Spec", "not published: layers, hidden, heads"]
