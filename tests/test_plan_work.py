"""What ``meshwright plan`` does, counted instead of timed: composes, files read, modules imported."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

COUNT = """
import contextlib, io, json, sys
import dataclasses, hydra, omegaconf, yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
counts = {"composes": 0, "files": 0}

def counted(owner, name, what):
    theirs = getattr(owner, name)
    def ours(*args, **named):
        counts[what] += 1
        return theirs(*args, **named)
    setattr(owner, name, ours)

counted(ConfigLoaderImpl, "_compose_config_from_defaults_list", "composes")
counted(yaml, "load", "files")
from meshwright.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["plan", *sys.argv[1:]]) == 0
ours = [name for name in sys.modules if name.startswith("meshwright")]
def written_out(one):
    return isinstance(one, type) and dataclasses.is_dataclass(one) and one.__eq__.__code__.co_filename == "<string>"

compiled = {one.__name__ for name in ours for one in vars(sys.modules[name]).values() if written_out(one)}
searched = "meshwright.search" in ours
counts |= {"ours": len(ours), "modules": len(sys.modules), "search": searched, "compiled": sorted(compiled)}
print(json.dumps(counts))
"""


@pytest.fixture(scope="module")
def six_stages() -> dict[str, Any]:
    return counts("recipe=llama3_405b")


def counts(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", COUNT, *words], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_six_stages_are_composed_once(six_stages: dict[str, Any]) -> None:
    assert six_stages["composes"] == 1


def test_six_stages_read_no_more_files_than_one(six_stages: dict[str, Any]) -> None:
    assert six_stages["files"] == counts("recipe=llama3_405b", "stage=gpus_16384")["files"]


def test_a_plan_imports_no_room_that_it_does_not_need(six_stages: dict[str, Any]) -> None:
    assert not six_stages["search"]
    assert six_stages["ours"] <= 161  # each kind of layer is one, and what each backend does
    assert six_stages["modules"] <= 527


def test_only_what_is_changed_is_a_dataclass_of_the_standard_librarys(six_stages: dict[str, Any]) -> None:
    assert six_stages["compiled"] == [
        "Problem",
        "Words",
        "_Walk",
    ]  # errors and words do without spec, walks are changed
