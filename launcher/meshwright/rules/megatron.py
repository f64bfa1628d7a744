"""What Megatron-core cannot express, or only under conditions. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshwright.errors import Repair
from meshwright.model.megatron_parts import GLOBAL, parts
from meshwright.rules import (
    megatron_hybrid,
    megatron_lightning,
    megatron_sparse,
    megatron_techniques,
    megatron_training,
)
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import MEGATRON, Layout, Rule, implies
from meshwright.rules.megatron_flags import contradictions
from meshwright.spec.model import Model, Moe, RopeScaling

__all__ = ["RULES", "contradictions"]


def _on_deepspeed(r: Layout) -> Iterable[Repair]:
    """The other backend, and what it needs of the layout: ZeRO with 16 bits, no pipeline."""
    shards = {} if r.zero else {"parallelism.zero": 1}
    whole = {} if r.pp == 1 else {"parallelism.pp": 1, "parallelism.vpp": 1, "parallelism.zero": 3}
    yield {"backend.name": "deepspeed", **shards, **whole}


def _lacks(part: str, path: str, needed: Callable[[Model], object], what: str, hint: str = "") -> Rule:
    """A part of the model that stock Megatron-core 0.19 has no flag for."""
    return Rule(
        id=f"megatron.{part}",
        path=path,
        backends=MEGATRON,
        holds=lambda r: not needed(r.model),
        message=f"Megatron has no {what}{hint}",
        source="no such flag in training/arguments.py, no such field in core/transformer/transformer_config.py",
        repairs=_on_deepspeed,
    )


def _own_router(r: Layout) -> bool:
    return parts(r.model).get("router_bias", "parameter") != "parameter"


def _moe(r: Layout, holds: Callable[[Moe], bool]) -> bool:
    return r.model.moe is None or holds(r.model.moe)


_PARTS = (
    Rule(
        id="megatron.measured",
        path="model.path",
        backends=MEGATRON,
        holds=lambda r: r.model.measured is None,
        message=lambda r: f"Megatron has no such model: {r.model.measured.lacks if r.model.measured else ''}",
        source="the model was looked at, built by transformers; nothing says how Megatron would build it",
        repairs=_on_deepspeed,
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
        repairs=any_of(change(backend__megatron__spec=True), _on_deepspeed),
    ),
    Rule(
        id="megatron.parts_mla",
        path="model.mla",
        backends=MEGATRON,
        holds=lambda r: r.model.mla is None or not parts(r.model).keys() - set(GLOBAL),
        message=lambda r: f"our layers with {', '.join(parts(r.model).keys() - set(GLOBAL))} have no latent attention",
        source="train/layers",
        repairs=_on_deepspeed,
    ),
    Rule(
        id="megatron.experts_activation",
        path="model.activation",
        backends=MEGATRON,
        holds=lambda r: not (r.model.moe and r.model.activation == "xielu"),
        message="xielu learns two scalars a layer, and our layer keeps none for experts",
        source="train/blocks.py",
        repairs=_on_deepspeed,
    ),
    Rule(
        id="megatron.full_norm",
        path="model.norm",
        backends=MEGATRON,
        holds=lambda r: r.model.qk_norm != "full" or (r.model.norm == "rmsnorm" and not r.model.norm_zero_centered),
        message="our norm of all heads at once is an RMSNorm whose weight starts at one",
        source="train/norms.py",
        repairs=_on_deepspeed,
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
    Rule(
        id="megatron.chunk",
        path="training.sequence",
        backends=MEGATRON,
        holds=lambda r: (r.model.attention_chunk or r.spec.training.sequence) >= r.spec.training.sequence,
        message="Megatron has no chunks of {model.attention_chunk} in a sequence of {training.sequence} tokens",
        source="no such flag in training/arguments.py; in one chunk it is plain attention",
        repairs=any_of(lambda r: [{"training.sequence": r.model.attention_chunk}], _on_deepspeed),
    ),
    Rule(
        id="megatron.query_growth",
        path="training.sequence",
        backends=MEGATRON,
        holds=lambda r: (r.model.query_growth_from or r.spec.training.sequence) >= r.spec.training.sequence,
        message="Megatron has no queries that grow from token {model.query_growth_from} on, of {training.sequence}",
        source="no such flag in training/arguments.py; transformers models/llama4/modeling_llama4.py",
        repairs=any_of(lambda r: [{"training.sequence": r.model.query_growth_from}], _on_deepspeed),
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
    *megatron_lightning.RULES,
    *megatron_sparse.RULES,
    *megatron_training.RULES,
    *megatron_techniques.RULES,
)
