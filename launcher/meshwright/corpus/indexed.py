"""Megatron's indexed dataset: ``prefix.bin`` holds the tokens, ``prefix.idx`` where each document lies.

Format: megatron-core 0.19.2, megatron/core/datasets/indexed_dataset.py ``_IndexWriter``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwright.spec.frozen import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Index", "lengths", "read_index", "token_type", "write_index"]

MAGIC = b"MMIDIDX\x00\x00"
HEADER = "<9sQBQQ"  # magic, version, code of the tokens' type, sequences, documents and one
BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 4, 8: 2}  # of a token, by the code of its type
TYPES = {2: ("uint16", 8), 4: ("int32", 4)}  # bytes of a token: NumPy's name, Megatron's code


@dataclass(frozen=True)
class Index:
    """What the head of an index says."""

    token_bytes: int
    documents: int


def read_index(prefix: str) -> Index:
    """The head of ``prefix.idx``.

    Raises:
        ValueError: where it is no index.

    """
    with Path(f"{prefix}.idx").open("rb") as file:
        head = file.read(struct.calcsize(HEADER))
    if len(head) < struct.calcsize(HEADER) or not head.startswith(MAGIC):
        raise ValueError(f"{prefix}.idx is not the index of a Megatron dataset")
    _magic, _version, code, _sequences, documents = struct.unpack(HEADER, head)
    return Index(BYTES[code], documents - 1)


def token_type(vocab: int) -> tuple[str, int]:
    """The smallest type that holds ``vocab`` tokens: NumPy's name and Megatron's code."""
    return TYPES[2] if vocab < 65500 else TYPES[4]  # as megatron's DType.optimal_dtype


def write_index(prefix: Path, sizes: Sequence[int] | NDArray[Any], vocab: int) -> None:
    """Write ``prefix.idx`` for documents of ``sizes`` tokens each, one sequence a document."""
    import numpy as np

    name, code = token_type(vocab)
    counts = np.asarray(sizes, dtype=np.int32)
    starts = np.zeros(len(counts), dtype=np.int64)
    np.cumsum(counts[:-1] * np.int64(np.dtype(name).itemsize), out=starts[1:])
    partial = Path(f"{prefix}.idx.partial")
    with partial.open("wb") as file:
        file.write(struct.pack(HEADER, MAGIC, 1, code, len(counts), len(counts) + 1))
        for part in (counts, starts, np.arange(len(counts) + 1, dtype=np.int64)):
            file.write(part.tobytes())
    partial.rename(f"{prefix}.idx")  # whole or not there


def lengths(prefix: str) -> NDArray[Any]:
    """Tokens of each document."""
    import numpy as np

    documents = read_index(prefix).documents
    return np.fromfile(f"{prefix}.idx", dtype=np.int32, count=documents, offset=struct.calcsize(HEADER))


def tokens(prefixes: Iterable[str]) -> int:
    """Tokens of several datasets."""
    return sum(Path(f"{p}.bin").stat().st_size // read_index(p).token_bytes for p in prefixes)
