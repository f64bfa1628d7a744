"""Lengths in tokens, which Megatron-DeepSpeed has beside those in samples -> samples (its megatron/training.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshwright.imports.found import Given

__all__ = ["TOKENS", "in_samples"]

TOKENS: Mapping[str, str] = {
    "train_tokens": "train_samples",
    "lr_decay_tokens": "lr_decay_samples",
    "lr_warmup_tokens": "lr_warmup_samples",
}
"""By argument in tokens: the one in samples."""


def in_samples(given: Mapping[str, Given]) -> dict[str, Given]:
    """The arguments with every length in samples; a run ends with its samples or its tokens, whichever come first."""
    sequence = given["seq_length"].value if "seq_length" in given else None
    if not isinstance(sequence, int) or sequence < 1 or "train_iters" in given:
        return dict(given)
    converted = {**given}
    for tokens, samples in TOKENS.items():
        one = converted.get(tokens)
        if one is None or not isinstance(one.value, int):
            continue
        held = converted[samples].value if samples in converted and samples == "train_samples" else None
        whole = one.value // sequence
        converted[samples] = replace(one, value=min(whole, held) if isinstance(held, int) else whole)
        del converted[tokens]
    return converted


def graphs(given: Mapping[str, Given]) -> dict[str, Given]:
    """With what ``--cuda-graph-scope`` said as its follower says it (arguments.py:615, core's cuda_graph_config.py)."""
    held = dict(given)
    scope = held.pop("cuda_graph_scope_deprecated", None)
    if scope is None or "cuda_graph_modules" in held:
        return dict(given)
    words = scope.value if isinstance(scope.value, list) else [scope.value]
    if words == ["full_iteration"]:
        held["cuda_graph_impl"] = replace(held.get("cuda_graph_impl", scope), value="full_iteration")
    held["cuda_graph_modules"] = replace(scope, value=[word for word in words if word not in _WHOLE])
    return held


_WHOLE = ("full", "full_iteration")
"""Scopes that are no modules: whole layers, and the whole iteration."""
