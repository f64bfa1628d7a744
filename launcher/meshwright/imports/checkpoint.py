"""The arguments that Megatron-LM saves in a checkpoint (``common.pt``): pickled values are read, no code of theirs is.

Every class that the pickle names stands for nothing here; what it would build is dropped with it.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.imports.found import Given, Place, Source
from meshwright.imports.megatron_yaml import of_values

__all__ = ["of_checkpoint"]

LARGEST = 2**26  # bytes of the pickle; the arguments are a few thousand, states of tensors lie beside it
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "uint8": "fp8"}


class _Inert:
    """Stands for an object of any class: it takes everything and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


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
    saved = _loaded(path)
    held = saved.get("args") if isinstance(saved, dict) else None
    arguments = held.state if isinstance(held, _Inert) else held
    if not isinstance(arguments, dict) or "num_layers" not in arguments:
        raise _refused(path, "holds no arguments of Megatron-LM; give common.pt, or the log of the run")
    plain = (int, float, str, bool, list, tuple, type(None))
    given = {
        name: Given(name, value, Place(str(path)))
        for name, value in arguments.items()
        if isinstance(name, str) and isinstance(value, plain)
    }
    return of_values(given, "checkpoint of a Megatron-LM run")


def _loaded(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            if archive.getinfo(name).file_size > LARGEST:
                raise _refused(path, f"its pickle has more than {LARGEST:,} bytes")
            with archive.open(name) as file:
                return _Reader(file).load()
    except ConfigError:
        raise
    except (OSError, StopIteration, zipfile.BadZipFile, RecursionError) as error:
        raise _refused(path, f"no checkpoint that torch wrote: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever its operations come to
        raise _refused(path, f"no pickle that can be read: {error}") from None


def _refused(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), message, "import.checkpoint")])
