"""What cannot be in any framework, of measured rows: the project's own rules, those that are arithmetic."""

from __future__ import annotations

from meshwright.errors import ConfigError
from meshwright.resolver import layout, normalise
from meshwright.rules import POSITIVE, broken
from meshwright.spec import Spec

__all__ = ["refuse_impossible"]

ARITHMETIC = frozenset(
    (
        "grid.world",
        "grid.dp",
        "grid.dense_experts",
        "grid.experts",
        "batch.global",
        "zero.stage",
        "tensor.heads",
        "model.query_groups",
        "experts.ep",
        "experts.topk",
        *(rule.id for rule in POSITIVE),
    )
)
"""Rules that other frameworks than ours obey, too."""


def refuse_impossible(spec: Spec) -> None:
    """Refuse a row whose numbers contradict one another.

    Raises:
        ConfigError: naming each rule that it breaks.

    """
    numbers = layout(normalise(spec))
    problems = [rule.problem(numbers) for rule in broken(numbers, spec.backend.name) if rule.id in ARITHMETIC]
    if problems:
        raise ConfigError(problems)
    p, layers = spec.parallelism, spec.model.layers
    if not any((layers + slots) % (p.pp * p.vpp) == 0 for slots in range(_slots(spec) + 1)):
        slots = "with or without slots for the embedding and the loss"
        raise ValueError(f"{layers} layers do not split over pp·vpp = {p.pp}·{p.vpp}, {slots}")


def _slots(spec: Spec) -> int:
    """Slots that may stand beside the layers: no column says so, but embedding and loss often have one each.

    DeepSeek-V3 has a layer of multi-token prediction besides, and Kimi K2, of its build without one, leaves that slot
    empty (Megatron-Bridge recipes/kimi/kimi_k2.py: 61 layers in 16 parts).
    """
    return 3 if spec.model.mla is not None else 2
