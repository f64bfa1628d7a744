"""Nothing stays in the folder for temporary files: of forks, of ranks of a rehearsal, and of a launch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meshwright.verify.pool import fork_map

HERE = """
import sys
from pathlib import Path
from meshwright.{module} import {name}
{call}
"""
LAYS_DOWN = "import tempfile, signal, os; tempfile.mkdtemp(suffix='wandb-media')\ndef main(words): {then}\n"
"""A module whose import leaves a folder, as wandb's does, which Megatron imports; ``main`` is what a rank runs."""


def _leaves(_: int) -> str:
    return tempfile.mkdtemp()


def test_a_check_in_a_fork_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places = fork_map(_leaves, [1, 2])
    assert all(Path(str(place)).is_relative_to(tmp_path) for place in places)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("then", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_ranks_of_a_rehearsal_leave_nothing(then: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LAYS_DOWN.format(then=then))
    call = """
Path("logs").mkdir()
warm("program", Path("logs/imports"))
try:
    train("program", 2, [], Path("logs"))
except RankError as error:
    print(error)
"""
    assert _left_by(tmp_path, HERE.format(module="rehearse.processes", name="RankError, train, warm", call=call)) == []


def test_a_launch_leaves_nothing_and_finds_what_was_compiled(tmp_path: Path) -> None:
    command = "echo $TMPDIR > told; echo $TORCHINDUCTOR_CACHE_DIR >> told; mktemp -d"
    call = f"""sys.exit(followed(["bash", "-c", {command!r}]))"""
    assert _left_by(tmp_path, HERE.format(module="jobs.followed", name="followed", call=call)) == []
    scratch, compiled = (tmp_path / "told").read_text().splitlines()
    assert Path(scratch).parent == Path(compiled).parent == (tmp_path / "temporary").readlink()


def _left_by(folder: Path, program: str) -> list[str]:
    """Names in the folder for temporary files after ``program``, which runs in ``folder``.

    The folder's own name is short: that of a socket in it may have 107 characters.
    """
    launcher = Path(__file__).parents[1] / "launcher"
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        (folder / "temporary").symlink_to(temporary)
        env = {**os.environ, "TMPDIR": temporary, "PYTHONPATH": f"{launcher}{os.pathsep}{folder}"}
        env.pop("TORCHINDUCTOR_CACHE_DIR", None)
        subprocess.run([sys.executable, "-c", program], env=env, cwd=folder, check=True)
        return sorted(path.name for path in Path(temporary).iterdir())
