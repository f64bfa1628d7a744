"""The command line as a shell sees it: Hydra's own flags, completion, closed pipes, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.cli import main

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--help"], ["--info", "defaults"]])
def test_hydras_own_flags_answer(flags: list[str]) -> None:
    command = [sys.executable, "-m", "meshwright.cli", "plan", *flags]
    environment = {"PYTHONPATH": str(ROOT / "launcher"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "parallelism" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("meshwright pl", "plan"),
        ("meshwright plan model=llama3_4", "model=llama3_405b"),
        ("meshwright plan recipe=llama3_405b stage=gpus_16", "stage=gpus_16384"),
    ],
)
def test_tab_completion_offers_verbs_and_options(typed: str, offered: str) -> None:
    environment = {"PYTHONPATH": str(ROOT / "launcher"), "PATH": "/usr/bin:/bin", "COMP_LINE": typed}
    command = [sys.executable, "-m", "meshwright.cli", "-sc", "query=bash"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert offered in done.stdout.split()


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has a ``meshwright``, as an installation puts it there."""
    program = tmp_path / "meshwright"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m meshwright.cli "$@"\n')
    program.chmod(0o755)
    return {"PYTHONPATH": str(ROOT / "launcher"), "PATH": f"{tmp_path}:/usr/bin:/bin"}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [("meshwright rehea", "rehearse"), ("meshwright plan cluster=dgx_a100_8", "cluster=dgx_a100_80gb")],
)
def test_a_shell_completes_by_what_is_printed_for_it(
    shell: str, line: str, offered: str, installed: dict[str, str]
) -> None:
    script = f"""
        eval "$(meshwright -sc install={shell})"
        complete -p meshwright >&2 || exit 3
        COMP_LINE='{line}' COMP_POINT={len(line)} COMP_CWORD={len(line.split()) - 1}
        hydra_bash_completion
        echo "${{COMPREPLY[@]}}"
        eval "$(meshwright -sc uninstall={shell})"
        declare -F hydra_bash_completion
        """
    done = subprocess.run(["bash", "-c", script], env=installed, capture_output=True, text=True, check=False)
    assert "-F hydra_bash_completion meshwright" in done.stderr
    assert done.stdout.splitlines() == [offered]


def test_fish_is_given_its_own_completion(installed: dict[str, str]) -> None:
    done = subprocess.run(
        ["meshwright", "-sc", "install=fish"], env=installed, capture_output=True, text=True, check=True
    )
    assert "complete -c meshwright -x -a '(hydra_fish_completion)'" in done.stdout


@pytest.mark.parametrize("words", [["-sc"], ["-sc", "install=tcsh"], ["-sc", "install=bash", "model=tiny"]])
def test_a_completion_that_there_is_none_of_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("-sc: expected one of install=bash, ")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        *("--info", "--info all", "--help", "--cfg job"),
        *("plan recipe=llama3_405b", "recipes recipe=llama3_405b verify=false", "-sc install=bash"),
    ],
)
def test_a_closed_pipe_ends_it_quietly(words: str, installed: dict[str, str]) -> None:
    script = f"{{ sleep 0.2; meshwright {words}; echo $? >&2; }} | true"
    done = subprocess.run(["bash", "-c", script], env=installed, capture_output=True, text=True, check=False)
    assert done.stderr == "0\n"


def test_plan_imports_nothing_heavy() -> None:
    words = ["plan", "recipe=llama3_405b"]
    run = f"import sys; from meshwright.cli import main; assert main({words!r}) == 0"
    code = f"{run}; print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT / "launcher"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    heavy = {"torch", "deepspeed", "megatron", "transformers", "numpy", "matplotlib", "pandas"}
    assert heavy.isdisjoint(done.stderr.split())
