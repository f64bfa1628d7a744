"""Objects in a ConfigContainer's YAML (``_target_``, ``_call_``, ``_args_``) as the single values they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from meshwright.imports.bridge_precision import fields_of
from meshwright.imports.bridge_tables import joined
from meshwright.imports.documents import Leaves
from meshwright.imports.found import Given

__all__ = ["plain"]

_WORDS = {"torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.half": "fp16", "torch.float32": "fp32"}
_WORDS |= {"torch.uint8": "fp8"}
_NUMBERED = {"AttnBackend": ("flash", "fused", "unfused", "local", "auto")}
"""Enumerations that earlier versions wrote by number, from 1 (core/transformer/enums.py)."""

_ORDER = ("optimizer", "tokenizer", "scheduler", "model", "dataset", "dist", "ddp", "comm_overlap", "mixed_precision")
"""Sections that say the same, the one that Bridge copies into the others last (training/config.py, ``setup``)."""


def plain(leaves: Leaves) -> Leaves:
    """One leaf for each object and each table, named recipes of precision by their fields, and what wins last."""
    single = {one.key: one for one in _single(joined(leaves))}
    if fields := {one.key: one for one in _precision(single)}:
        del single["mixed_precision"]
    return dict(sorted({**fields, **single}.items(), key=lambda pair: _rank(pair[0])))


def _rank(key: str) -> int:
    section = key.partition(".")[0]
    return _ORDER.index(section) + 1 if section in _ORDER else 0


def _single(leaves: Leaves) -> Iterator[Given]:
    """A section's own class says nothing; below it an object is one value."""
    objects = [key.removesuffix("._target_") for key in leaves if key.count(".") > 1 and key.endswith("._target_")]
    outer = [key for key in objects if not any(key.startswith(f"{other}.") for other in objects)]
    for key, one in leaves.items():
        of = next((name for name in outer if key.startswith(f"{name}.")), None)
        if of is None:
            yield one
        elif key == f"{of}._target_":
            yield replace(one, key=of, value=_value(of, leaves))


def _value(key: str, leaves: Leaves) -> str:
    target = str(leaves[f"{key}._target_"].value)
    last = target.rpartition(".")[2]
    held = leaves[f"{key}._args_"].value if f"{key}._args_" in leaves else None
    number = held[0] if isinstance(held, list) and held else None
    if last in _NUMBERED and isinstance(number, int) and 0 < number <= len(_NUMBERED[last]):
        return _NUMBERED[last][number - 1]
    return _WORDS.get(target, last)


def _precision(leaves: Leaves) -> Iterator[Given]:
    if "mixed_precision" in leaves:
        named = leaves["mixed_precision"]
        for field, value in fields_of(str(named.value)).items():
            yield replace(named, key=f"mixed_precision.{field}", value=value)
