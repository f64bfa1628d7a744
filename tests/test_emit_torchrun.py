"""launch.sh: right counts, every variable with its reason, and nothing a value could run."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from builders import llama_405b, small_model, spec
from meshwright.emit.torchrun import script
from meshwright.errors import ConfigError
from meshwright.resolver import resolve
from meshwright.spec import EnvVariable, Launch, Spec


def text(candidate: Spec) -> str:
    return script(resolve(candidate))


def test_one_node_stands_alone() -> None:
    assert "--nnodes=1 \\\n    --standalone --nproc-per-node" in text(spec(small_model(), 4))


def test_2048_nodes_ask_for_their_number_and_the_first_address() -> None:
    said = text(llama_405b())
    assert "--nnodes=2048" in said
    assert 'NODE_RANK="${NODE_RANK:?' in said
    assert "processes=8\n" in said


def test_a_partial_last_node_runs_fewer_ranks() -> None:
    assert "processes=$((NODE_RANK == 1 ? 4 : 8))" in text(spec(small_model(), 12))


def test_what_megatron_insists_on_is_exported() -> None:
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in text(spec(small_model(), 8, tp=2, sp=True))
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=8" in text(spec(small_model(), 8, zero=3))


HOSTILE = ["$(touch pwned)", "`touch pwned`", "'; touch pwned; '", '"; touch pwned; "', "-x", "é ü"]


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_runs(value: str, tmp_path: Path) -> None:
    base = spec(small_model(), 4)
    launch = Launch(entry=f"./{value}", environment={"X": value}, python="true")
    cluster = replace(base.cluster, environment={"Y": EnvVariable(value=value, why=value)})
    path = tmp_path / "launch.sh"
    path.write_text(text(replace(base, launch=launch, cluster=cluster)))
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "args.txt").write_text("'$(touch pwned)'\n")
    done = subprocess.run(["bash", str(path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("entry", "said"), [("a\ntouch pwned", "only printable characters"), ("-x", "reads as a flag")]
)
def test_what_would_end_a_line_or_read_as_a_flag_is_refused(entry: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        text(replace(spec(small_model(), 4), launch=Launch(entry=entry)))
