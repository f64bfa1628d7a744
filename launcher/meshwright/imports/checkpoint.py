"""The arguments that Megatron-LM saves in a checkpoint: pickled values are read, no code of theirs is run.

Every class that the pickle names stands for nothing here; what it would build is dropped with it.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.imports.found import Given, Place, Source
from meshwright.imports.megatron_yaml import of_values

__all__ = ["METADATA", "of_checkpoint"]

METADATA = ".metadata"  # torch's index of a distributed checkpoint
LARGEST = 2**26  # bytes of the pickle; the arguments are a few thousand, states of tensors lie beside it
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "uint8": "fp8"}


class _Inert:
    """Stands for an object of any class: it takes everything and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, _: object) -> None:
        """Items of a list of another class."""

    def __setitem__(self, _: object, value: object) -> None:
        """Items of a mapping of another class."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        return dict if (module, name) == ("collections", "OrderedDict") else _Inert

    def persistent_load(self, _: object) -> None:
        """The bytes of a tensor."""


def of_checkpoint(path: Path) -> Source:
    """The run that wrote the checkpoint.

    Raises:
        ConfigError: where the file is no checkpoint of torch, or holds no arguments.

    """
    saved = _common_state(path) if path.name == METADATA else _loaded(path, path)
    held = saved.get("args") if isinstance(saved, dict) else None
    arguments = held.state if isinstance(held, _Inert) else held
    if not isinstance(arguments, dict) or "num_layers" not in arguments:
        raise _refused(path, "holds no arguments of Megatron-LM; give the checkpoint's folder, or the log of the run")
    plain = (int, float, str, bool, list, tuple, type(None))
    given = {
        name: Given(name, value, Place(str(path)))
        for name, value in arguments.items()
        if isinstance(name, str) and isinstance(value, plain)
    }
    return of_values(given, "checkpoint of a Megatron-LM run")


def _common_state(path: Path) -> Any:
    """What is common to all ranks, among the tensors' bytes (core/dist_checkpointing/serialization.py:206).

    The index says in which file and where. Earlier versions wrote a file of its own, ``common.pt``.
    """
    storage = _state(_unpickled(path, path)).get("storage_data")
    held = storage if isinstance(storage, dict) else {}
    info = next((_state(one) for index, one in held.items() if _state(index).get("fqn") == _COMMON), {})
    name, start, length = info.get("relative_path"), info.get("offset"), info.get("length")
    if not isinstance(name, str) or Path(name).name != name or info.get("transform_descriptors"):
        raise _refused(path, "names no common_state beside it; give common.pt, or the log of the run")
    if not isinstance(start, int) or not isinstance(length, int) or not 0 < length <= LARGEST or start < 0:
        raise _refused(path, f"its common_state is no part of a file of at most {LARGEST:,} bytes")
    listed = _loaded(path, io.BytesIO(_part(path.parent / name, start, length)))
    return listed[0] if isinstance(listed, list) and listed else None


_COMMON = "common_state/shard_0_1"
"""A ShardedObject of one shard (core/dist_checkpointing/mapping.py: unique_key)."""


def _part(path: Path, start: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from None


def _state(value: Any) -> dict[str, Any]:
    return value.state if isinstance(value, _Inert) and isinstance(value.state, dict) else {}


def _loaded(path: Path, source: Path | io.BytesIO) -> Any:
    """What ``torch.save`` wrote."""
    try:
        with zipfile.ZipFile(source) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            if archive.getinfo(name).file_size > LARGEST:
                raise _refused(path, f"its pickle has more than {LARGEST:,} bytes")
            return _unpickled(path, io.BytesIO(archive.read(name)))
    except ConfigError:
        raise
    except Exception as error:  # a damaged archive raises whatever its offsets come to
        raise _refused(path, f"no checkpoint that torch wrote: {error}") from None


def _unpickled(path: Path, source: Path | io.BytesIO) -> Any:
    try:
        if isinstance(source, Path) and source.stat().st_size > LARGEST:
            raise _refused(path, f"has more than {LARGEST:,} bytes")
        return _Reader(io.BytesIO(source.read_bytes()) if isinstance(source, Path) else source).load()
    except ConfigError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its operations come to
        raise _refused(path, f"no pickle that can be read: {error}") from None


def _refused(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), message, "import.checkpoint")])
