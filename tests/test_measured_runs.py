"""A run that trained is a measurement: its folder is validated, fitted to, and compared with its prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from builders import small_model, spec
from meshwright.cli import main
from meshwright.cost import cost
from meshwright.jobs.run_folder import compile
from meshwright.jobs.status import status
from meshwright.library.files import option
from meshwright.resolver import resolve
from meshwright.spec import Cluster, Spec
from meshwright.spec.decode import decode
from meshwright.train import machine, metrics

GIB = 2**30
H100 = {"gpu": "NVIDIA H100 80GB HBM3", "versions": {"torch": "2.11.0"}}


def asked(name: str, layers: int = 8, **degrees: int) -> Spec:
    one = spec(small_model(layers=layers), 8, global_batch=16, **degrees)
    cluster = replace(decode(Cluster, option("cluster", "dgx_h100")), gpus=8)
    return replace(one, name=name, cluster=cluster)


def trained(folder: Path, of: Spec, times: float, ran_on: Mapping[str, object] = H100, gib: float = 2.0) -> Path:
    """A run folder whose steps took ``times`` the prediction, but the first, which took ten seconds."""
    plan = resolve(of)
    compile(plan, folder, verify=False)
    seconds = times * cost(plan).step_time
    for step in range(1, 11):
        took = 10.0 if step == 1 else seconds
        memory = {"peak_allocated_bytes": int(gib * GIB), "peak_reserved_bytes": int(1.1 * gib * GIB)}
        rate = plan.batch.tokens / took
        metrics.write(folder / "metrics.jsonl", step=step, loss=2.0, step_time_s=took, tokens_per_s=rate, **memory)
    (folder / machine.FILE).write_text(json.dumps(ran_on))
    return folder


def test_validate_takes_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "a", asked("a"), 1.25)
    assert main(["validate", f"runs={tmp_path}", "output=json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["row_id"] == "a"
    assert row["step_time_error"] == pytest.approx(1 / 1.25 - 1)
    assert row["measured_peak_memory_gib"] == 2


def test_what_measured_nothing_is_skipped_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "elsewhere", asked("elsewhere"), 1.0, ran_on={"gpu": "NVIDIA H200"})
    trained(tmp_path / "on_a_cpu", asked("on_a_cpu"), 1.0, ran_on={"gpu": None})
    compile(resolve(asked("waiting")), tmp_path / "waiting", verify=False)
    trained(tmp_path / "damaged", asked("damaged"), 1.0)
    (tmp_path / "damaged" / "config.yaml").write_text("{")
    assert main(["validate", f"runs={tmp_path}", "output=json"]) == 1  # nothing was judged
    reasons = {skip["row_id"]: skip["reason"] for skip in json.loads(capsys.readouterr().out)["skipped"]}
    assert reasons["elsewhere"] == "planned for H100-SXM5-80GB, ran on NVIDIA H200"
    assert reasons["on_a_cpu"] == "planned for H100-SXM5-80GB, ran on CPU"
    assert reasons["waiting"] == "no step of its whole batch is in metrics.jsonl beyond the first 2"
    assert reasons["damaged"].startswith("config.yaml cannot be read")


def test_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", f"runs=[{tmp_path}]"]) == 2
    assert f"{tmp_path} holds no run" in capsys.readouterr().err
    assert main(["validate"]) == 2
    assert "give rows=FILE.csv" in capsys.readouterr().err


def test_calibrate_fits_a_cluster_to_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for layers in (8, 16, 24):
        trained(tmp_path / "runs" / str(layers), asked(f"l{layers}", layers), 1.3)
    assert main(["calibrate", "cluster=dgx_h100", "runs=[runs]", "output=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["efficiency"]["source"].startswith("fitted on 3 rows of 3 run folders")
    assert max(map(abs, found["in_fit"])) < 0.23  # unfitted: 1 / 1.3 - 1
    assert yaml.safe_load(next(tmp_path.rglob("dgx_h100_calibrated.yaml")).read_text())["defaults"] == [
        "dgx_h100",
        "_self_",
    ]


def test_status_shows_measured_beside_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_said, slow = trained(tmp_path / "as_said", asked("as_said"), 1.0), trained(tmp_path / "slow", asked("slow"), 2.0)
    expected = cost(resolve(asked("slow"))).step_time
    assert status(as_said).predicted.step_time_s == pytest.approx(expected)
    assert not [said for said in status(as_said).surprises if "step time" in said]
    (said,) = [said for said in status(slow).surprises if "step time" in said]
    assert "+100% (80 %:" in said
    assert main(["status", str(slow)]) == 0
    shown = capsys.readouterr().out
    assert f"(predicted {expected:.3g})" in shown
    assert "peak 2.0 GiB allocated, 2.2 GiB reserved, " in shown
    assert "not as predicted: step time" in shown


def test_memory_far_from_its_prediction_is_said(tmp_path: Path) -> None:
    folder = trained(tmp_path / "a", asked("a"), 1.0, gib=60)
    assert [said for said in status(folder).surprises if said.startswith("peak memory 60 GiB")]


def test_steps_of_a_smaller_batch_are_not_measurements() -> None:
    lines = [{"step": i, "step_time_s": 1.0 if i < 8 else 2.0, "tokens_per_s": 512.0} for i in range(14)]
    assert metrics.measured(lines, 512).step_time == 1.0
    assert metrics.measured(lines, 1024).step_time == 2.0
    assert metrics.measured(lines, 1024).allocated is None


def test_a_machine_describes_itself() -> None:
    said = machine.describe()
    assert said["cpus_of_node"] >= 1
    assert said["versions"]["torch"].startswith("2.")
