"""Choosing experts with a bias otherwise than Megatron-core does."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.moe import router
from torch import Tensor

__all__ = ["install", "routed"]


def install(words: str) -> None:
    """Have Megatron's routers choose as ``words`` say (``model.megatron_parts``); losses are of softmax where it is."""
    said = frozenset(words.split("+"))
    if not said & {"softmax", "logits", "raw"}:
        return
    router.topk_routing_with_score_function = lambda logits, topk, **options: routed(logits, topk, said, **options)
    if "softmax" in said:
        scores = router.compute_routing_scores_for_aux_loss
        router.compute_routing_scores_for_aux_loss = lambda logits, topk, _score, **options: scores(
            logits, topk, "softmax", **options
        )


def routed(
    logits: Tensor,
    topk: int,
    said: frozenset[str],
    expert_bias: Tensor | None = None,
    scaling_factor: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Weights and choice, ``[tokens, experts]`` both, 0 and false where a token does not go."""
    wide = logits.float()
    scores = wide.softmax(-1) if "softmax" in said else wide.sigmoid()
    compared = wide if "logits" in said else scores
    chosen = (compared if expert_bias is None else compared + expert_bias.float()).topk(topk, -1).indices
    weights = scores.gather(-1, chosen)
    if "raw" not in said and topk > 1:
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    weights = (weights * (scaling_factor or 1.0)).type_as(logits)
    nowhere = torch.zeros_like(logits)
    return nowhere.scatter(-1, chosen, weights), nowhere.bool().scatter(-1, chosen, True)
