"""Token sequences from Megatron's indexed datasets, read with NumPy alone; or mock ones that can be learned.

A sample is ``sequence + 1`` tokens: what goes in, and one further as what comes out. Which samples a step sees depends
on its number only, never on the layout: layouts can be compared, and a run goes on where it stopped.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meshwright.spec.frozen import dataclass

__all__ = ["Indexed", "Mixture", "Mock", "Samples", "dataset"]

# codes of megatron/core/datasets/indexed_dataset.py ``DType``
_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}
_MAGIC = b"MMIDIDX\x00\x00"


class Samples(Protocol):
    """Something with as many samples as one asks for."""

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample ``index``, int64 ``[sequence + 1]``."""
        ...


@dataclass(frozen=True)
class Mock:
    """Each token follows from the one before: the loss of a model that learns goes to zero."""

    vocab: int
    sequence: int
    seed: int

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample ``index``."""
        tokens = np.empty(self.sequence + 1, np.int64)
        tokens[0] = np.random.default_rng([self.seed, index]).integers(self.vocab)
        for place in range(self.sequence):
            tokens[place + 1] = (5 * tokens[place] + 7) % self.vocab
        return tokens


class Indexed:
    """The documents of ``prefix.bin`` and ``prefix.idx`` as one stream of samples, in another order each epoch."""

    def __init__(self, prefix: str, sequence: int, seed: int, part: tuple[float, float] = (0.0, 1.0)) -> None:
        """Map the file; the samples are those of the ``part`` between two fractions of it."""
        self._tokens: Any = np.memmap(f"{prefix}.bin", dtype=_token_type(Path(f"{prefix}.idx")), mode="r")
        self._sequence, self._seed = sequence, seed
        self._first, end = (int(((len(self._tokens) - 1) // sequence) * bound) for bound in part)
        self.samples = end - self._first
        if self.samples < 1:
            raise ValueError(f"{prefix}.bin: {len(self._tokens)} tokens are not one sequence of {sequence} + 1")

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample ``index`` of an endless run over epochs."""
        epoch, place = divmod(index, self.samples)
        start = (self._first + self._shuffled(place, epoch)) * self._sequence
        return np.asarray(self._tokens[start : start + self._sequence + 1]).astype(np.int64)

    def _shuffled(self, place: int, epoch: int) -> int:
        """A permutation that needs no memory: ``place -> stride·place + offset``, the stride coprime to the count."""
        random = np.random.default_rng([self._seed, epoch])
        stride, offset = (int(random.integers(self.samples)) for _ in range(2))
        while math.gcd(stride, self.samples) != 1:
            stride += 1
        return (stride * place + offset) % self.samples


class Mixture:
    """Several datasets, drawn by weight."""

    def __init__(self, parts: Sequence[Samples], weights: Sequence[float]) -> None:
        """Take one weight a part."""
        self._parts = parts
        self._bounds = list(accumulate(weight / sum(weights) for weight in weights))

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample ``index``; the part is drawn with ``index`` as the seed, so each part is read at its own pace."""
        part = bisect_right(self._bounds[:-1], _golden(index))
        return self._parts[part].sample(index)


def dataset(data: Mapping[str, Any], vocab: int, sequence: int, seed: int, validation: bool = False) -> Samples:
    """What ``training.data`` describes: its first share, or the second, for validation."""
    if not data["paths"]:
        return Mock(vocab, sequence, seed + validation)
    shares = [float(share) for share in data["split"].split(",")]
    first, second = shares[0] / sum(shares), (shares[0] + shares[1]) / sum(shares)
    part = (first, second) if validation else (0.0, first)
    parts = [Indexed(path, sequence, seed, part) for path in data["paths"]]
    if len(parts) == 1:
        return parts[0]
    return Mixture(parts, data["weights"] or [part.samples for part in parts])


def _golden(index: int) -> float:
    """A low-discrepancy sequence in 0..1: any stretch of it is spread evenly."""
    return (index * 0.6180339887498949) % 1.0


def _token_type(index: Path) -> Any:
    with index.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{index} is not the index of a Megatron dataset")
        _version, code = struct.unpack("<QB", file.read(9))
    return _TYPES[code]
