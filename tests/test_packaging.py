"""A wheel, and a wheel made from the sdist, carry every group and recipe and run a plan from a foreign folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built the way we publish: a copy of the tracked files -> sdist -> wheel."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    run(
        "cp",
        "--parents",
        "--no-dereference",
        *(name for name in tracked if (ROOT / name).exists()),
        str(source),
        cwd=ROOT,
    )
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), ".", cwd=source)
    return next(dist.glob("*.whl"))


def test_the_wheel_carries_every_option_of_every_group(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in (ROOT / "conf").iterdir():
        for option in folder.glob("*.yaml"):
            assert f"meshwright/conf/{folder.name}/{option.name}" in names


def test_the_wheel_carries_what_a_page_is_made_of(wheel: Path) -> None:
    names, assets = set(zipfile.ZipFile(wheel).namelist()), Path("meshwright/report/page/assets")
    found = [path for path in (ROOT / "launcher" / assets).rglob("*") if path.is_file()]
    assert found
    assert all(str(path.relative_to(ROOT / "launcher")) in names for path in found)


def test_the_installed_wheel_plans_a_recipe(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel), cwd=tmp_path)
    code = "import sys, meshwright.cli; print(meshwright.cli.__file__); sys.exit(meshwright.cli.main(sys.argv[1:]))"
    words = ["plan", "recipe=llama3_405b", "stage=gpus_16384"]
    shown = run(sys.executable, "-c", code, *words, cwd=tmp_path, PYTHONPATH=str(site))
    assert str(site) in shown
    assert "16,384 = tp 8" in shown
