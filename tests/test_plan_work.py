"""What ``meshwright plan`` does, counted instead of timed: composes, files read, modules imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COUNT = """
import contextlib, io, json, sys
import hydra, omegaconf, yaml
counts = {"composes": 0, "files": 0}

def counted(owner, name, what):
    theirs = getattr(owner, name)
    def ours(*args, **named):
        counts[what] += 1
        return theirs(*args, **named)
    setattr(owner, name, ours)

counted(hydra, "compose", "composes")
counted(yaml, "load", "files")
from meshwright.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["plan", *sys.argv[1:]]) == 0
ours = [name for name in sys.modules if name.startswith("meshwright")]
print(json.dumps(counts | {"ours": len(ours), "modules": len(sys.modules), "search": "meshwright.search" in ours}))
"""


@pytest.fixture(scope="module")
def six_stages() -> dict[str, int]:
    return counts("recipe=llama3_405b")


def counts(*words: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", COUNT, *words], capture_output=True, text=True, check=True)
    result: dict[str, int] = json.loads(done.stdout)
    return result


def test_six_stages_are_composed_once(six_stages: dict[str, int]) -> None:
    assert six_stages["composes"] == 1


def test_six_stages_read_no_more_files_than_one(six_stages: dict[str, int]) -> None:
    assert six_stages["files"] == counts("recipe=llama3_405b", "stage=gpus_16384")["files"]


def test_a_plan_imports_no_room_that_it_does_not_need(six_stages: dict[str, int]) -> None:
    assert not six_stages["search"]
    assert six_stages["ours"] <= 134  # each kind of layer is one
    assert six_stages["modules"] <= 530
