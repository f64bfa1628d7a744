"""Arguments saved in a checkpoint: read without building, let alone running, anything that the pickle names."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

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


def distributed(folder: Path, state: object, **changes: object) -> Path:
    """As Megatron-core 0.19.2 saves it: an index, and what is common to all ranks among the tensors' bytes."""
    torch = pytest.importorskip("torch")
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

    bytes_ = io.BytesIO()
    torch.save([state], bytes_)
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"tensors" + bytes_.getvalue() + b"more")
    info: dict[str, Any] = {"relative_path": "__0_0.distcp", "offset": 7, "length": len(bytes_.getvalue()), **changes}
    key = "common_state/shard_0_1"
    index = Metadata({key: BytesStorageMetadata()}, storage_data={MetadataIndex(key): _StorageInfo(**info)})
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    return folder


@pytest.mark.parametrize("name", ["", ".metadata", "metadata.json", "__0_0.distcp", ".."])
def test_a_distributed_checkpoint_is_read_by_its_index(name: str, tmp_path: Path) -> None:
    folder = distributed(tmp_path / "iter_0000020", {"args": argparse.Namespace(**SAVED), "evil": Evil()})
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20")
    source = imported([folder / name])
    assert (source.values["model.layers"], source.values["parallelism.tp"], source.asks) == (4, 2, ())
    assert not (Path.cwd() / "evil").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relative_path": "../secret"}, "names no common_state"),
        ({"relative_path": "gone.distcp"}, "cannot be read"),
        ({"offset": -1}, "no part of a file"),
        ({"length": 2**40}, "no part of a file"),
        ({"offset": 9}, "no checkpoint that torch wrote"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    folder = distributed(tmp_path / "iter_0000020", {"args": argparse.Namespace(**SAVED)}, **changes)
    with pytest.raises(ConfigError, match=said):
        imported([folder])


def test_a_checkpoint_of_bridge_is_its_run_config(tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000020"
    folder.mkdir()
    text = "train: {micro_batch_size: 1, global_batch_size: 8}\nmodel: {num_layers: 4, seq_length: 32}\n"
    (folder / "run_config.yaml").write_text(text)
    checkpoint(folder / "train_state.pt", {"step": 20})
    (tmp_path / "latest_train_state.pt").write_bytes(b"")
    for name in ("iter_0000020", "iter_0000020/train_state.pt", "latest_train_state.pt", "."):
        source = imported([tmp_path / name])
        assert source.kinds == ("Megatron-Bridge configuration",)
        assert source.values["model.layers"] == 4


def test_what_a_run_fills_in_by_itself_is_no_other_model(tmp_path: Path) -> None:
    filled = {**SAVED, "encoder_num_layers": 4, "rampup_batch_size": None, "decoder_num_layers": None}
    source = imported([checkpoint(tmp_path / "common.pt", {"args": argparse.Namespace(**filled)})])
    assert source.remarks == ()
