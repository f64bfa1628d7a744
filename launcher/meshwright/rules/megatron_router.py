"""How Megatron-core chooses experts for a token. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.model.megatron_parts import parts
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import MEGATRON, Layout, Rule
from meshwright.spec.model import Moe

__all__ = ["RULES"]


def _own_router(r: Layout) -> bool:
    return parts(r.model).get("router_bias", "parameter") != "parameter"


def _moe(r: Layout, holds: Callable[[Moe], bool]) -> bool:
    return r.model.moe is None or holds(r.model.moe)


def _alone(moe: Moe, r: Layout) -> bool:
    """Whether nothing but a bias of its own decides where tokens go."""
    free = not moe.router_bias and moe.groups == 1 and moe.capacity_factor is None
    return free and moe.aux_loss == 0 and not r.backend.megatron.moe_router_fusion


RULES: tuple[Rule, ...] = (
    Rule(
        id="megatron.top1",
        path="model.moe.normalize_topk",
        backends=MEGATRON,
        holds=lambda r: _moe(
            r,
            lambda moe: moe.topk > 1 or moe.score != "softmax" or not moe.normalize_topk or moe.balancing == "sinkhorn",
        ),
        message="a softmax over one chosen expert is always 1; set normalize_topk=false for topk = 1",
        source="core/transformer/transformer_config.py:2328",
        repairs=change(model__moe__normalize_topk=False),
    ),
    Rule(
        id="megatron.sigmoid",
        path="model.moe.normalize_topk",
        backends=MEGATRON,
        holds=lambda r: _moe(
            r, lambda moe: moe.score == "softmax" or moe.topk == 1 or moe.normalize_topk or moe.router_bias
        ),
        message="Megatron always normalises sigmoid scores of the chosen {model.moe.topk} experts",
        source="core/transformer/moe/moe_utils.py topk_routing_with_score_function",
        repairs=change(model__moe__normalize_topk=True),
    ),
    Rule(
        id="megatron.sqrtsoftplus",
        path="model.moe.score",
        backends=MEGATRON,
        holds=lambda r: _moe(r, lambda moe: moe.score != "sqrtsoftplus" or not _own_router(r)),
        message="our router, for such a bias, scores by softmax or sigmoid",
        source="train/routers.py: Megatron's own wants the bias added to normalised scores, in a buffer",
        repairs=any_of(change(model__moe__score="sigmoid"), change(model__moe__router_bias=False)),
    ),
    Rule(
        id="megatron.quantile",
        path="model.moe.balancing",
        backends=MEGATRON,
        holds=lambda r: _moe(r, lambda moe: moe.balancing != "quantile_balancing" or _alone(moe, r)),
        message="quantile balancing moves a bias of its own: no router_bias, aux_loss = 0 (it is "
        "{model.moe.aux_loss}), groups = 1 ({model.moe.groups}), no capacity_factor, moe_router_fusion off",
        source="core/transformer/moe/router.py:225, :324; core/transformer/transformer_config.py:1675",
        repairs=any_of(
            change(model__moe__aux_loss=0.0),
            change(backend__megatron__moe_router_fusion=False),
            change(model__moe__balancing="none", model__moe__quantile_ema=0.0),
        ),
    ),
    Rule(
        id="megatron.quantile_ema",
        path="model.moe.quantile_ema",
        backends=MEGATRON,
        holds=lambda r: _moe(r, lambda moe: moe.quantile_ema == 0 or moe.balancing == "quantile_balancing"),
        message="{model.moe.quantile_ema} of a bias that {model.moe.balancing} has not",
        source="core/transformer/transformer_config.py:806; ours: it would be lost",
        repairs=any_of(change(model__moe__quantile_ema=0.0), change(model__moe__balancing="quantile_balancing")),
    ),
    Rule(
        id="megatron.router_bias",
        path="model.moe.router_bias",
        backends=MEGATRON,
        holds=lambda r: _moe(r, lambda moe: moe.groups == 1 or not _own_router(r)),
        message="our router has no groups of experts, {model.moe.groups} are asked for with such a bias",
        source="train/routers.py: Megatron's own wants sigmoid scores, normalised, with the bias added to them",
        repairs=change(model__moe__groups=1, model__moe__group_topk=1),
    ),
    Rule(
        id="megatron.flex",
        path="backend.megatron.moe_dispatcher",
        backends=MEGATRON,
        holds=lambda r: (
            (r.model.moe is None)
            | (r.backend.megatron.moe_dispatcher != "flex")
            | (r.backend.megatron.moe_flex_backend == "hybridep")
            | (r.tp * r.ep > 1)
        ),
        message="the flex dispatcher with {backend.megatron.moe_flex_backend} needs tp·ep > 1, it is {tp}·{ep}",
        source="core/transformer/moe/token_dispatcher.py:1770",
        repairs=change(backend__megatron__moe_dispatcher="alltoall"),
    ),
)
