"""Megatron's names of the modules that multiply, by our operations: what a glob over them means here.

A layer's number counts on its chunk of a stage, in both of Megatron's classes (``named_modules`` of megatron-core
0.19.2's GPTModel and HybridModel, which look a module up by it: models/gpt/gpt_model.py:298).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch

from meshwright.spec.techniques import ModulePrecision

__all__ = ["MODULES", "names", "precision_of", "shares"]

MODULES: Mapping[str, str] = {
    "attention.qkv": "self_attention.linear_qkv",
    "attention.query": "self_attention.linear_q_proj",
    "attention.query_down": "self_attention.linear_q_down_proj",
    "attention.query_up": "self_attention.linear_q_up_proj",
    "attention.kv_down": "self_attention.linear_kv_down_proj",
    "attention.kv_up": "self_attention.linear_kv_up_proj",
    "attention.output": "self_attention.linear_proj",
    "delta_net.input": "self_attention.in_proj",
    "delta_net.output": "self_attention.out_proj",
    "mamba.input": "mixer.in_proj",
    "mamba.output": "mixer.out_proj",
    "mlp.up": "mlp.linear_fc1",
    "mlp.down": "mlp.linear_fc2",
    "experts.up": "mlp.experts.linear_fc1",
    "experts.down": "mlp.experts.linear_fc2",
    "shared_experts.up": "mlp.shared_experts.linear_fc1",
    "shared_experts.down": "mlp.shared_experts.linear_fc2",
    "latent.input": "mlp.fc1_latent_proj",
    "latent.output": "mlp.fc2_latent_proj",
}
"""Within a layer; those of an indexer and of layers of ours keep the run's precision."""


def names(operation: str, layers: Iterable[int], ahead: int, hybrid: bool) -> Iterator[str]:
    """Of one operation in ``layers`` of a chunk by number, and in ``ahead`` layers of multi-token prediction."""
    inner = "mtp_model_layer.layers.0" if hybrid else "mtp_model_layer"
    yield from (f"decoder.layers.{i}.{MODULES[operation]}" for i in layers)
    yield from (f"mtp.layers.{i}.{inner}.{MODULES[operation]}" for i in range(ahead))


def precision_of(name: str, rules: tuple[ModulePrecision, ...]) -> str | None:
    """What the first glob that matches says; None: as the run."""
    return next((rule.precision for rule in rules if fnmatch(name, rule.match)), None)


def shares(rules: tuple[ModulePrecision, ...], there: Iterable[str]) -> dict[str, float]:
    """Part of the modules named so in each precision that ``rules`` give."""
    found = [precision_of(name, rules) for name in there]
    return {kind: found.count(kind) / len(found) for kind in dict.fromkeys(found) if kind is not None}
