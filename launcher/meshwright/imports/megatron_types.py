"""Values that Megatron-LM's parser, or our reading of them, cannot take: they are named, not read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from meshwright.imports.megatron_arguments import kinds
from meshwright.imports.megatron_files import FILES

__all__ = ["unfit"]

_POSITIVE = frozenset(
    (
        *("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size", "num_layers"),
        *("expert_model_parallel_size", "expert_tensor_parallel_size", "num_attention_heads", "hidden_size"),
        *("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank", "num_query_groups"),
        *(
            "seq_length",
            "micro_batch_size",
            "global_batch_size",
            "max_position_embeddings",
            "vocab_size",
            "kv_channels",
        ),
        *("virtual_pipeline_model_parallel_size", "padded_vocab_size", "rotary_seq_len_interpolation_factor"),
    )
)
"""Sizes that others are divided by."""

_OWN = {"zero_stage": int, "padded_vocab_size": int, "virtual_pipeline_model_parallel_size": int, "world_size": int}
_OWN |= dict.fromkeys(("train_tokens", "lr_decay_tokens", "lr_warmup_tokens", "expert_interval"), int)
_SCHEDULE = re.compile(r"\s*\d+(\.\d+)?[KMBTkmbt]?:\d+([\s,]+\d+(\.\d+)?[KMBTkmbt]?:\d+)*\s*")
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def unfit(name: str, value: Any) -> str | None:
    """What is wrong with the value of an argument, or None; what is left open is another matter."""
    if value is None:
        return None
    if name in FILES and isinstance(value, Mapping):
        return None
    kind, several = (_OWN[name], False) if name in _OWN else kinds(name)
    if kind is not None and not _fits(value, kind, several):
        return f"expected {_WORDS[kind]}{', or some' if several else ''}"
    if name in _POSITIVE and value < 1:
        return "expected at least 1"
    if name == "window_size" and not (isinstance(value, list | tuple) and all(isinstance(one, int) for one in value)):
        return "expected (tokens,0)"
    if name == "step_batch_size_schedule" and not _SCHEDULE.fullmatch(value):
        return "expected pairs of tokens and batch, 0:768 250B:1536"
    return None


def _fits(value: Any, kind: type, several: bool) -> bool:
    if several and isinstance(value, list | tuple):
        return all(_fits(one, kind, False) for one in value)
    if kind is bool or kind is str:
        return isinstance(value, kind) or (kind is str and isinstance(value, int | float))
    plain = isinstance(value, int) or (kind is float and isinstance(value, float))
    return plain and not isinstance(value, bool) and abs(value) < 2**63
