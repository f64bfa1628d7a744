"""What torch's profiler wrote into a run folder: Kineto's Chrome trace events, a file a rank."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.spec.frozen import dataclass

__all__ = ["Profile", "profiles", "read"]

PLACES = ("profile/*.json*", "torch_profile/*.json*", "**/*.pt.trace.json*")
"""Where our programs write it, Megatron's ``--use-pytorch-profiler``, and torch's handler for TensorBoard."""


@dataclass(frozen=True)
class Profile:
    """One rank's file. Times of ``events`` are in microseconds, from no moment in particular."""

    path: Path
    rank: int
    events: tuple[Mapping[str, Any], ...]


def profiles(folder: Path) -> Iterator[Profile]:
    """Those of a run folder, by rank.

    Raises:
        ConfigError: where a file is none.

    """
    found = {path for place in PLACES for path in folder.glob(place) if path.name.endswith((".json", ".json.gz"))}
    yield from sorted(map(read, found), key=lambda one: (one.rank, one.path))


def read(path: Path) -> Profile:
    """The events that say when they happened, and the names of what they happened on.

    Raises:
        ConfigError: where the file cannot be read or holds no trace events.

    """
    try:
        data = path.read_bytes()
        document = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        events = tuple(one for one in document["traceEvents"] if one.get("ph"))
        return Profile(path, _rank(path, document), events)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError([Problem("trace", f"{path} is no profile of torch's: {error}", "trace.profile")]) from None


def _rank(path: Path, document: Mapping[str, Any]) -> int:
    """As torch.distributed had it, else as the file is called."""
    named = re.search(r"rank[-_.]?(\d+)", path.name)
    return int(document.get("distributedInfo", {}).get("rank", named[1] if named else 0))
