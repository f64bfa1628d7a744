"""Values that the Trainer's arguments and accelerate's file have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshwright.errors import Problem
from meshwright.imports.found import Ask

__all__ = ["SHARDING", "asks", "recompute", "reshards", "switch", "true"]


def true(value: Any) -> bool:
    """Whether a word says yes."""
    return value is True or str(value).lower() in ("true", "yes", "1")


def switch(value: Any) -> bool:
    """What is neither on nor off is left for the decoder to name."""
    if not true(value) and str(value).lower() not in ("false", "no", "0", "none", ""):
        raise ValueError(value)
    return true(value)


def recompute(value: Any) -> str:
    """Checkpointing of activations is all of it, or none."""
    return "full" if switch(value) else "none"


def asks(who: str) -> Iterator[Ask]:
    """What neither file says."""
    hint = "give model=NAME, or model=hf model.path=DIR, or the model's config.json as a further file"
    yield Ask("model", Problem("model", f"{who} no sizes of the model; {hint}", "import.missing"))
    message = f"{who} no length of a sequence; give training.sequence=TOKENS"
    yield Ask("training.sequence", Problem("training.sequence", message, "import.missing"))


SHARDING = {"1": 3, "FULL_SHARD": 3, "2": 2, "SHARD_GRAD_OP": 2, "3": 0, "NO_SHARD": 0, "4": 3, "HYBRID_SHARD": 3}


def reshards(word: Any) -> int:
    """FSDP 1 names a strategy here, too; FSDP 2 says whether parameters are sharded again."""
    return SHARDING.get(str(word), 3 if true(word) else 2)
