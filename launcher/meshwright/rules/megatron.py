"""What Megatron-core cannot express, or only under conditions. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.model.megatron_parts import GLOBAL, parts
from meshwright.rules import (
    megatron_hybrid,
    megatron_lightning,
    megatron_mixers,
    megatron_sparse,
    megatron_techniques,
    megatron_training,
)
from meshwright.rules._repairs import any_of, change, on_deepspeed
from meshwright.rules._rule import MEGATRON, Layout, Rule, implies
from meshwright.rules.megatron_flags import contradictions
from meshwright.spec.model import Model, Moe, RopeScaling

__all__ = ["RULES", "contradictions"]


def _without(
    part: str, path: str, needed: Callable[[Model], object], message: str | Callable[[Layout], str], source: str
) -> Rule:
    """A part of the model that has no place here."""
    return Rule(
        id=f"megatron.{part}",
        path=path,
        backends=MEGATRON,
        holds=lambda r: not needed(r.model),
        message=message,
        source=source,
        repairs=on_deepspeed,
    )


def _lacks(part: str, path: str, needed: Callable[[Model], object], what: str, hint: str = "") -> Rule:
    """A part of the model that stock Megatron-core 0.19 has no flag for."""
    source = "no such flag in training/arguments.py, no such field in core/transformer/transformer_config.py"
    return _without(part, path, needed, f"Megatron has no {what}{hint}", source)


def _up_to(part: str, length: Callable[[Model], int | None], message: str, source: str) -> Rule:
    """Attention that is plain in sequences of so many tokens, and that Megatron lacks beyond them."""
    return Rule(
        id=f"megatron.{part}",
        path="training.sequence",
        backends=MEGATRON,
        holds=lambda r: (length(r.model) or r.training.sequence) >= r.training.sequence,
        message=message,
        source=source,
        repairs=any_of(lambda r: [{"training.sequence": length(r.model)}], on_deepspeed),
    )


def _own_router(r: Layout) -> bool:
    return parts(r.model).get("router_bias", "parameter") != "parameter"


def _moe(r: Layout, holds: Callable[[Moe], bool]) -> bool:
    return r.model.moe is None or holds(r.model.moe)


def _alone(moe: Moe, r: Layout) -> bool:
    """Whether nothing but a bias of its own decides where tokens go."""
    free = not moe.router_bias and moe.groups == 1 and moe.capacity_factor is None
    return free and moe.aux_loss == 0 and not r.backend.megatron.moe_router_fusion


_PARTS = (
    Rule(
        id="megatron.measured",
        path="model.path",
        backends=MEGATRON,
        holds=lambda r: r.model.measured is None,
        message=lambda r: f"Megatron has no such model: {r.model.measured.lacks if r.model.measured else ''}",
        source="the model was looked at, built by transformers; nothing says how Megatron would build it",
        repairs=on_deepspeed,
    ),
    _lacks("deepnorm", "model.norm_placement", lambda m: m.norm_placement == "deepnorm", "DeepNorm"),
    _lacks(
        "mla_kind", "model.mla", lambda m: m.mla and (m.attention_sinks or m.attention_gate), "sinks or gate in MLA"
    ),
    _lacks(
        "sinks",
        "model.attention_sinks",
        lambda m: m.attention_sinks and (m.attention_softcap or m.positions == "alibi"),
        "sinks with a soft cap or ALiBi",
    ),
    _lacks("mla_window", "model.sliding_window", lambda m: m.mla and m.sliding_window, "sliding window in MLA"),
    _lacks("mla_scale", "model.attention_scale", lambda m: m.mla and m.attention_scale, "other scale of MLA's scores"),
    _lacks("mla_bias", "model.qkv_bias", lambda m: m.mla and m.qkv_bias, "query, key and value biases in MLA"),
    _lacks("rotated_norm", "model.qk_norm", lambda m: m.qk_norm == "rotated", "norms behind the rotary positions"),
    _lacks("rotary_base", "model.rope.base", lambda m: not m.rope.base.is_integer(), "fractional rotary base"),
    _lacks(
        "rope_scaling",
        "model.rope.scaling",
        lambda m: m.rope.scaling and not _scales(m),
        "such rotary scaling",
        ": of latent attention it is yarn over 4096 positions with betas 32 and 1, and linear is a whole number",
    ),
)


_OUR_LAYERS = (
    Rule(
        id="megatron.parts",
        path="backend.megatron.spec",
        backends=MEGATRON,
        holds=lambda r: not parts(r.model) or r.backend.megatron.spec,
        message=lambda r: f"stock Megatron has no {' or '.join(parts(r.model))}; spec=true uses our layers",
        source="megatron_parts.py: our layer specifications, for --spec",
        repairs=any_of(change(backend__megatron__spec=True), on_deepspeed),
    ),
    _without(
        "parts_mla",
        "model.mla",
        lambda m: m.mla and parts(m).keys() - set(GLOBAL),
        lambda r: f"our layers with {', '.join(sorted(parts(r.model).keys() - set(GLOBAL)))} have no latent attention",
        "train/layers",
    ),
    _without(
        "experts_activation",
        "model.activation",
        lambda m: m.moe and m.activation == "xielu",
        "xielu learns two scalars a layer, and our layer keeps none for experts",
        "train/blocks.py",
    ),
    _without(
        "full_norm",
        "model.norm",
        lambda m: m.qk_norm == "full" and (m.norm != "rmsnorm" or m.norm_zero_centered),
        "our norm of all heads at once is an RMSNorm whose weight starts at one",
        "train/norms.py",
    ),
    Rule(
        id="megatron.one_norm",
        path="parallelism.recompute_modules",
        backends=MEGATRON,
        holds=lambda r: (
            not (r.model.parallel_residual and r.model.shared_parallel_norm)
            or "layernorm" not in (r.spec.parallelism.recompute_modules or ())
        ),
        message="one norm feeds attention and MLP, and a recomputed norm keeps no output for the second",
        source="train/blocks.py",
        repairs=change(parallelism__recompute_modules=None),
    ),
    _up_to(
        "chunk",
        lambda m: m.attention_chunk,
        "Megatron has no chunks of {model.attention_chunk} in a sequence of {training.sequence} tokens",
        "no such flag in training/arguments.py; in one chunk it is plain attention",
    ),
    _up_to(
        "query_growth",
        lambda m: m.query_growth_from,
        "Megatron has no queries that grow from token {model.query_growth_from} on, of {training.sequence}",
        "no such flag in training/arguments.py; transformers models/llama4/modeling_llama4.py",
    ),
    Rule(
        id="megatron.parts_cp",
        path="parallelism.cp",
        backends=MEGATRON,
        holds=lambda r: implies(r.model.positions == "alibi" or r.model.attention_softcap is not None, r.cp == 1),
        message="attention with ALiBi or a soft cap sees whole sequences, cp = {cp} cuts them",
        source="train/attention.py",
        repairs=change(parallelism__cp=1),
    ),
    Rule(
        id="megatron.softcap_dropout",
        path="model.attention_dropout",
        backends=MEGATRON,
        holds=lambda r: implies(r.model.attention_softcap is not None, r.model.attention_dropout == 0),
        message="attention with a soft cap has no dropout, attention_dropout = {model.attention_dropout}",
        source="train/attention.py: flex attention has none",
        repairs=change(model__attention_dropout=0.0),
    ),
)


def _parsed_yarn(scaling: RopeScaling) -> bool:
    """What the parser has no flags for is as in MLATransformerConfig (core/transformer/transformer_config.py)."""
    return (scaling.original_positions, scaling.beta_fast, scaling.beta_slow) == (4096, 32.0, 1.0)


def _scales(model: Model) -> bool:
    scaling = model.rope.scaling
    if scaling is None or scaling.kind == "yarn":
        return scaling is None or model.mla is None or _parsed_yarn(scaling)
    return model.mla is None and (scaling.kind == "llama3" or scaling.factor.is_integer())


_EXPERTS = (
    Rule(
        id="megatron.top1",
        path="model.moe.normalize_topk",
        backends=MEGATRON,
        holds=lambda r: _moe(r, lambda moe: moe.topk > 1 or moe.score != "softmax" or not moe.normalize_topk),
        message="a softmax over one chosen expert is always 1; set normalize_topk=false for topk = 1",
        source="core/transformer/transformer_config.py:2336",
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


RULES: tuple[Rule, ...] = (
    *_PARTS,
    *_OUR_LAYERS,
    *_EXPERTS,
    *megatron_hybrid.RULES,
    *megatron_mixers.RULES,
    *megatron_lightning.RULES,
    *megatron_sparse.RULES,
    *megatron_training.RULES,
    *megatron_techniques.RULES,
)
