"""Mamba, gated delta nets and HybridModel on Megatron-core. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.layout.pipeline import parse_layout
from meshwright.model.kinds import mixers
from meshwright.model.layers.part import NONE
from meshwright.model.megatron_classes import HYBRID_MIXERS, is_hybrid, needs_hybrid
from meshwright.model.megatron_parts import HYBRID, parts
from meshwright.rules._repairs import any_of, change, nearest
from meshwright.rules._rule import Layout, Number, Rule, implies, megatron_rule
from meshwright.spec.model import DeltaNet, Mamba

__all__ = ["RULES"]

_TP = nearest("parallelism.tp", lambda r: r.tp, high=64)
_CP = nearest("parallelism.cp", lambda r: r.cp, high=64)
_GPT = change(backend__megatron__model="auto")
_SPECS = "core/models/hybrid/hybrid_layer_specs.py"


def _hybrid(r: Layout) -> bool:
    return is_hybrid(r.model, r.backend.megatron)


def _mixers(r: Layout) -> frozenset[str]:
    return mixers(r.model) - {NONE}


def _net(r: Layout, holds: Callable[[DeltaNet], Number]) -> Number:
    return True if r.model.delta_net is None or "delta_net" not in _mixers(r) else holds(r.model.delta_net)


def _mamba(r: Layout, holds: Callable[[Mamba], Number]) -> Number:
    scans = not {"mamba", "parallel_mixer"}.isdisjoint(_mixers(r))
    return True if r.model.mamba is None or not scans else holds(r.model.mamba)


def _beyond(r: Layout) -> list[str]:
    """Parts that our layers of GPTModel alone have."""
    return [part for part in parts(r.model) if part not in HYBRID]


def _ends_the_model(layout: str | None) -> bool:
    """Whether multi-token prediction follows the last decoder layer, in one chunk."""
    *before, last = ["t"] if layout is None else parse_layout(layout)
    return "t" in last and "m" not in "".join(before)


def _lacks(part: str, path: str, lacking: Callable[[Layout], object], what: str, source: str = _SPECS) -> Rule:
    """Something of GPTModel that HybridModel has not."""
    return megatron_rule(
        f"hybrid_{part}",
        path,
        lambda r: not (_hybrid(r) and lacking(r)),
        f"Megatron's HybridModel has no {what}",
        source,
        _GPT,
    )


_HYBRID = (
    megatron_rule(
        "gpt",
        "backend.megatron.model",
        lambda r: r.backend.megatron.model != "gpt" or not needs_hybrid(r.model),
        "gpt builds layers of a mixer and a feed-forward part, no Mamba, and no multi-token prediction beside delta "
        "nets or sparse attention; model.pattern or model.mtp has others",
        "core/transformer/transformer_layer.py; core/models/gpt/experimental_attention_variant_module_specs.py; "
        "core/models/gpt/gpt_layer_specs.py:572",
        _GPT,
    ),
    _lacks(
        "mixers",
        "model.pattern",
        lambda r: not set(_mixers(r)) <= set(HYBRID_MIXERS),
        "windows, no short convolution and no lightning attention",
    ),
    _lacks("qk_norm", "model.qk_norm", lambda r: r.model.qk_norm != "none", "norms on queries and keys"),
    megatron_rule(
        "hybrid_parts",
        "model",
        lambda r: not (_hybrid(r) and _beyond(r)),
        lambda r: f"our layers of Megatron's HybridModel have no {', '.join(_beyond(r))}",
        "train/hybrid_layers.py",
        _GPT,
    ),
    _lacks(
        "rope",
        "model.rope.scaling",
        lambda r: r.model.mla is None and r.model.rope.scaling is not None and r.model.rope.scaling.kind != "linear",
        "rotary scaling but the linear one, and latent attention's",
        "training/argument_utils.py:484",
    ),
    _lacks("no_rope", "model.rope.skip_every", lambda r: r.model.rope.skip_every, "layers without rotary positions"),
    megatron_rule(
        "hybrid_mtp",
        "parallelism.pipeline_split.layout",
        lambda r: not (_hybrid(r) and r.model.mtp > 0) or _ends_the_model(r.spec.parallelism.pipeline_split.layout),
        "HybridModel's multi-token prediction stands with the last decoder layers, not in a chunk of its own",
        "core/models/hybrid/hybrid_model.py:215",
        change(parallelism__pipeline_split__layout=None),
    ),
    megatron_rule(
        "variant_transformer",
        "backend.megatron.transformer",
        lambda r: (
            r.backend.megatron.transformer == "transformer_engine" or not (_hybrid(r) or "delta_net" in _mixers(r))
        ),
        "layers of HybridModel, and delta nets, are made of Transformer Engine's modules alone",
        f"{_SPECS}; core/models/gpt/experimental_attention_variant_module_specs.py:444",
        change(backend__megatron__transformer="transformer_engine"),
    ),
)

_DELTA_NET = (
    megatron_rule(
        "delta_net_beside",
        "model.pattern",
        lambda r: "delta_net" not in _mixers(r) or set(_mixers(r)) <= {"attention", "delta_net", "mamba"},
        "Megatron mixes delta nets with full attention and Mamba, not with windows or latent attention",
        "core/models/gpt/experimental_attention_variant_module_specs.py; tried with these",
    ),
    megatron_rule(
        "delta_net_activation",
        "model.activation",
        lambda r: _net(r, lambda _: r.model.activation == "swiglu"),
        "Megatron's delta nets gate with the MLP's activation, which must be swiglu, not {model.activation}",
        "core/ssm/gated_delta_net/gdn.py:237",
    ),
    megatron_rule(
        "delta_net_heads",
        "model.delta_net.value_heads",
        lambda r: _net(r, lambda net: net.value_heads % net.key_heads == 0),
        "{model.delta_net.value_heads} heads of values are no multiple of {model.delta_net.key_heads} heads of keys",
        "core/transformer/transformer_config.py:1368",
    ),
    megatron_rule(
        "delta_net_tp",
        "parallelism.tp",
        lambda r: _net(r, lambda net: (net.key_heads % (r.tp * r.cp) == 0) & (net.value_heads % (r.tp * r.cp) == 0)),
        "{model.delta_net.key_heads} heads of keys and {model.delta_net.value_heads} of values of the delta nets do "
        "not divide by tp·cp = {tp}·{cp}",
        "core/transformer/transformer_config.py:1375",
        any_of(_TP, _CP),
    ),
)

_MAMBA = (
    megatron_rule(
        "mamba_kernel",
        "model.mamba.kernel",
        lambda r: _mamba(r, lambda mamba: mamba.kernel == 4),
        "Megatron's Mamba convolves 4 tokens, not {model.mamba.kernel}",
        "core/ssm/mamba_mixer.py:164",
        change(model__mamba__kernel=4),
    ),
    megatron_rule(
        "mamba_norm",
        "model.mamba.norm",
        lambda r: r.model.mamba is None or r.model.mamba.norm or "mamba" not in _mixers(r),
        "Megatron's layers of Mamba alone have a norm behind the scan",
        "core/ssm/mamba_layer.py; core/ssm/mamba_mixer.py:165",
        change(model__mamba__norm=True),
    ),
    megatron_rule(
        "mamba_groups",
        "model.mamba.groups",
        lambda r: _mamba(r, lambda mamba: mamba.heads % mamba.groups == 0),
        "{model.mamba.heads} heads do not divide by {model.mamba.groups} groups",
        "core/ssm/mamba_mixer.py:259",
    ),
    megatron_rule(
        "mamba_tp",
        "parallelism.tp",
        lambda r: _mamba(r, lambda mamba: (mamba.heads % r.tp == 0) & (mamba.groups % r.tp == 0)),
        "{model.mamba.heads} heads and {model.mamba.groups} groups of Mamba do not divide by tp = {tp}",
        "core/ssm/mamba_mixer.py:245",
        _TP,
    ),
    megatron_rule(
        "mamba_cp",
        "parallelism.cp",
        lambda r: _mamba(r, lambda mamba: implies(r.cp > 1, _dealt(mamba, r))),
        "cp = {cp} ranks cannot share {model.mamba.heads} heads and {model.mamba.groups} groups of Mamba cut over "
        "tp = {tp}",
        "core/ssm/mamba_context_parallel.py:107",
        _CP,
    ),
)


def _dealt(mamba: Mamba, r: Layout) -> Number:
    """Heads are dealt out; groups, too, or fewer of them are copied evenly."""
    groups = mamba.groups // r.tp
    shared = (groups % r.cp == 0) | ((groups > 0) & (r.cp % (groups + (groups == 0)) == 0))
    return (mamba.heads // r.tp % r.cp == 0) & shared


RULES = (*_HYBRID, *_DELTA_NET, *_MAMBA)
