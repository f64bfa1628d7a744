"""Arguments saved in a checkpoint: read without building, let alone running, anything that the pickle names."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest

from meshwright.errors import ConfigError
from meshwright.imports.read import imported

SAVED = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 32,
    "max_position_embeddings": 32,
    "micro_batch_size": 1,
    "global_batch_size": 16,
    "padded_vocab_size": 128,
    "tensor_model_parallel_size": 2,
    "world_size": 8,
    "bf16": True,
    "train_iters": 20,
}


def checkpoint(path: Path, saved: object) -> Path:
    """As ``torch.save`` lays it out."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("common/data.pkl", pickle.dumps(saved))
    return path


def test_the_run_that_wrote_a_checkpoint(tmp_path: Path) -> None:
    state = OrderedDict(args=argparse.Namespace(**SAVED), iteration=7)
    source = imported([checkpoint(tmp_path / "common.pt", state)])
    wanted = {
        "model.layers": 4,
        "parallelism.tp": 2,
        "cluster.gpus": 8,
        "training.precision": "bf16",
        "model.vocab": 128,
    }
    assert {path: source.values[path] for path in wanted} == wanted
    assert source.asks == ()


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("evil",)


def test_what_a_pickle_would_run_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = {"args": argparse.Namespace(**SAVED, evil=Evil()), "evil": Evil()}
    source = imported([checkpoint(tmp_path / "common.pt", state)])
    assert source.values["model.layers"] == 4
    assert [one.name for one in tmp_path.iterdir()] == ["common.pt"]


@pytest.mark.parametrize("saved", [{"iteration": 1}, {"args": Evil()}, [1, 2], {"args": argparse.Namespace(a=1)}])
def test_what_holds_no_arguments_is_refused(saved: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no arguments"):
        imported([checkpoint(tmp_path / "common.pt", saved)])


@pytest.mark.parametrize("data", [b"", b"PK", b"\x80\x04K", bytes(1000)])
def test_what_is_no_checkpoint_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "common.pt").write_bytes(data)
    with pytest.raises(ConfigError, match="no checkpoint"):
        imported([tmp_path / "common.pt"])
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("common/data.pkl", data)
    with pytest.raises(ConfigError):
        imported([tmp_path / "b.pt"])
