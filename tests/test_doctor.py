"""``meshwright doctor``: programs that hang, are missing or cannot be used are findings, never tracebacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.jobs import doctor
from meshwright.jobs.doctor import Finding, findings


def found(name: str, folder: Path) -> Finding:
    (one,) = (finding for finding in findings(folder) if finding.name == name)
    return one


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are looked up."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.5)
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_every_finding_is_a_line(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("yes", "no"))] == [
        "yes" if one.found else "no" for one in findings(programs)
    ]


def test_a_driver_that_hangs(programs: Path) -> None:
    program(programs / "nvidia-smi", "exec /bin/sleep 60")
    assert found("GPUs", programs).install == "nvidia-smi does not answer in 0.5 s"


def test_a_slurm_without_a_cluster(programs: Path) -> None:
    assert found("SLURM", programs).install == "log in to a node of the cluster"
    program(programs / "sbatch", "echo slurm 24.05")
    program(programs / "sinfo", "echo 'sinfo: fatal: Could not establish a configuration source' >&2; exit 1")
    assert found("SLURM", programs).found is None
    assert "sbatch is here, but cannot be used (sinfo: fatal: Could not" in found("SLURM", programs).install
    program(programs / "sinfo", "echo h100")
    assert found("SLURM", programs).found == "slurm 24.05, 1 partitions"


def test_what_pytorch_is_built_for(programs: Path) -> None:
    torch = pytest.importorskip("torch")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
    assert f"built for {built}" in (found("PyTorch", programs).found or "")


def test_enroot(programs: Path) -> None:
    program(programs / "enroot", "echo 3.5.0")
    assert found("enroot", programs).found == "3.5.0"
