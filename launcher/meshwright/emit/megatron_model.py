"""The model as Megatron-LM flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isclose

from meshwright.emit._flags import flag, switch
from meshwright.emit.megatron_hybrid import hybrid, hybrid_flags, layers_built
from meshwright.emit.megatron_moe import experts_flags
from meshwright.layout.plan import Plan
from meshwright.model.kinds import layer_kinds
from meshwright.model.megatron_classes import turns_at_once
from meshwright.model.megatron_parts import HYBRID_MODULE, MODULE, parts, spec_name
from meshwright.spec.model import Model, Rope, RopeScaling

__all__ = ["UNFUSED", "model_flags", "scores_as_usual", "windows", "without_positions"]


def model_flags(plan: Plan) -> Iterator[str]:
    """Sizes, attention, positions, MLP, norms, experts, multi-token prediction, kernels."""
    model = plan.spec.model
    yield from _sizes(plan)
    yield from _attention(model)
    yield from _scales(model)
    yield from _positions(model)
    yield from _mlp(model)
    yield from _norms(model)
    yield from experts_flags(plan)
    yield from hybrid_flags(plan)
    yield from flag("--mtp-num-layers", model.mtp, 0)
    if model.mtp:
        yield from flag("--mtp-loss-scaling-factor", model.mtp_loss_weight, 0.1)
        yield from switch("--mtp-use-repeated-layer", model.mtp_repeated)
        yield from switch("--mtp-detach-heads", model.mtp_detached)
    yield from _kernels(plan)


def _sizes(plan: Plan) -> Iterator[str]:
    model = plan.spec.model
    yield from flag("--num-layers", layers_built(plan))
    yield from flag("--hidden-size", model.hidden)
    yield from flag("--ffn-hidden-size", model.ffn)
    yield from flag("--num-attention-heads", model.heads)
    yield from flag("--max-position-embeddings", _positions_held(plan))
    yield from flag("--vocab-size", model.vocab)
    yield from flag("--make-vocab-size-divisible-by", plan.spec.backend.megatron.vocab_divisor, 128)
    yield from switch("--untie-embeddings-and-output-weights", not model.tied_embeddings)
    yield from flag("--init-method-std", model.init_std, 0.02)
    yield from flag("--attention-dropout", model.attention_dropout, 0.1)
    yield from flag("--hidden-dropout", model.hidden_dropout, 0.1)


def _positions_held(plan: Plan) -> int:
    """Megatron wants a number that holds the sequence even where positions have no end (ALiBi, none)."""
    model = plan.spec.model
    endless = model.positions in ("alibi", "none")
    return max(model.max_positions, plan.spec.training.sequence) if endless else model.position_rows


def _attention(model: Model) -> Iterator[str]:
    yield from flag("--kv-channels", model.head_dim)  # always: MLA's hidden size need not divide by its heads
    if model.mla:
        yield "--multi-latent-attention"
        yield from flag("--q-lora-rank", model.mla.q_lora_rank)
        yield from flag("--kv-lora-rank", model.mla.kv_lora_rank, 32)
        yield from flag("--qk-head-dim", model.mla.qk_nope_dim, 128)
        yield from flag("--qk-pos-emb-head-dim", model.mla.qk_rope_dim, 64)
        yield from flag("--v-head-dim", model.mla.v_dim, 128)
        yield "--qk-layernorm"  # MLA norms its compressed queries and keys
        return
    if model.kv_heads != model.heads:
        yield "--group-query-attention"
        yield from flag("--num-query-groups", model.kv_heads, 1)
    yield from switch("--qk-l2-norm", model.qk_norm == "l2")
    yield from switch("--attention-output-gate", model.attention_gate)
    if model.attention_sinks:
        yield from flag("--softmax-type", "learnable")
    yield from switch("--qk-layernorm", model.qk_norm in ("head", "full"))
    yield from switch("--add-qkv-bias", model.qkv_bias and not model.linear_bias)
    if model.sliding_window:
        yield from flag("--window-size", f"({model.sliding_window - 1},0)")  # before the token itself
        skips = windows(model)
        yield from flag("--window-attn-skip-freq", str(skips).replace(" ", "") if isinstance(skips, list) else skips)


def windows(model: Model) -> int | list[int] | None:
    """Which layers have the window: all (None), all but each n-th, or 1 for each that has it."""
    if model.pattern is None:
        return model.full_attention_every or None
    with_window = [int(kind.mixer == "windowed_attention") for kind in layer_kinds(model)]
    return None if all(with_window) else with_window


def without_positions(model: Model) -> int | list[int] | None:
    """Which layers have no rotary positions: none (None), each n-th, or 1 for each that has none."""
    if model.positions != "rope" or not model.rope.skip_full:
        return model.rope.skip_every or None
    return [int(kind.mixer == "attention") for kind in layer_kinds(model)]


def _scales(model: Model) -> Iterator[str]:
    """Megatron's maximal update parametrisation at a width multiplier of one changes these three factors alone.

    It scales the sum of embedding and position (language_model_embedding.py:131), ours the embedding alone.
    Scores are scaled by sqrt(base) / head_dim (transformer_config.py:2206).
    """
    embedding = None if "embedding_scale" in parts(model) else model.embedding_scale
    if embedding is None and model.logit_scale is None and scores_as_usual(model):
        return
    scale = model.attention_scale or model.head_dim**-0.5
    yield "--use-mup"
    yield from flag("--mup-embedding-mult", embedding, None)
    yield from flag("--mup-output-mult", model.logit_scale, None)
    yield from flag("--mup-base-head-dim", (scale * model.head_dim) ** 2)


def scores_as_usual(model: Model) -> bool:
    """Whether attention's scores are scaled by 1 / sqrt(head_dim), stated or not."""
    return model.attention_scale is None or isclose(model.attention_scale, model.head_dim**-0.5)


def _positions(model: Model) -> Iterator[str]:
    kind = "learned_absolute" if model.looks_up_positions else {"alibi": "none"}.get(model.positions, model.positions)
    scaling = model.rope.scaling
    if kind == "rope" and scaling and scaling.kind == "yarn" and not model.mla:
        kind = "yarn"
    yield from flag("--position-embedding-type", kind, "learned_absolute")
    if model.positions == "rope":
        yield from _rope(model, model.rope)


def _rope(model: Model, rope: Rope) -> Iterator[str]:
    yield from flag("--rotary-base", int(rope.base), 10000)
    yield from flag("--rotary-percent", rope.fraction, 1.0)
    scaling = rope.scaling
    if scaling and scaling.kind == "yarn" and not model.mla:
        yield from _yarn(scaling)
    elif model.mla:
        yarn = scaling is not None and scaling.kind == "yarn"
        yield from flag("--rope-type", "yarn" if yarn else "rope")
        yield from switch("--no-rope-fusion", not turns_at_once(model))
        yield from flag("--rotary-scaling-factor", scaling.factor if scaling else 1.0, 1.0)
        if scaling:
            yield from flag("--mscale", scaling.mscale, 1.0)
            yield from flag("--mscale-all-dim", scaling.mscale_all_dim, 0.0)
    elif scaling and scaling.kind == "llama3":
        yield "--use-rope-scaling"
        yield from flag("--rope-scaling-factor", scaling.factor, 8.0)
    elif scaling and scaling.kind == "linear":
        yield from flag("--rotary-seq-len-interpolation-factor", int(scaling.factor), 1)
    skips = without_positions(model)
    yield from flag("--no-rope-freq", str(skips).replace(" ", "") if isinstance(skips, list) else skips)


def _yarn(scaling: RopeScaling) -> Iterator[str]:
    yield "--no-rope-fusion"
    yield from flag("--rotary-scaling-factor", scaling.factor, 1.0)
    yield from flag("--yarn-original-max-position-embeddings", scaling.original_positions, 4096)
    yield from flag("--yarn-beta-fast", scaling.beta_fast, 32.0)
    yield from flag("--yarn-beta-slow", scaling.beta_slow, 1.0)
    yield from flag("--mscale", scaling.mscale, 1.0)
    yield from flag("--mscale-all-dim", scaling.mscale_all_dim, 0.0)
    yield from switch("--no-yarn-correction-range-round-to-int", not scaling.truncate)


def _mlp(model: Model) -> Iterator[str]:
    quick = model.activation == "quick_geglu"
    yield from switch("--quick-geglu", quick)
    yield from flag("--activation-func-clamp-value", model.activation_clamp)
    yield from flag("--glu-linear-offset", model.activation_offset, 0.0)
    yield from switch("--swiglu", model.gated and not quick)  # our layers put GELU in the place of SiLU
    yield from switch("--no-bias-swiglu-fusion", model.activation in ("geglu", "geglu_tanh"))
    yield from switch("--squared-relu", model.activation == "squared_relu")
    # the fused kernel is the tanh approximation, and wants a bias (core/fusions/fused_bias_gelu.py)
    unfused = model.activation == "gelu_tanh" and not model.linear_bias
    yield from switch("--no-bias-gelu-fusion", unfused or model.activation in UNFUSED)
    yield from switch("--disable-bias-linear", not model.linear_bias)


UNFUSED = ("gelu", "squared_relu", "relu", "xielu", "quick_geglu")
"""Activations that Megatron does not fuse with a bias, or does as something else."""


def _norms(model: Model) -> Iterator[str]:
    yield from flag("--normalization", {"rmsnorm": "RMSNorm"}.get(model.norm, "LayerNorm"), "LayerNorm")
    yield from flag("--norm-epsilon", model.norm_eps, 1e-5)
    yield from switch("--apply-layernorm-1p", model.norm_zero_centered)


def _kernels(plan: Plan) -> Sequence[str]:
    megatron = plan.spec.backend.megatron
    return [
        *flag("--transformer-impl", megatron.transformer, "transformer_engine"),
        *flag("--attention-backend", megatron.attention, "auto"),
        *switch("--cross-entropy-loss-fusion", megatron.cross_entropy_fusion),
        *_our_layers(plan),
    ]


def _our_layers(plan: Plan) -> Sequence[str]:
    """Layers that stock Megatron lacks; without this flag it would silently build others."""
    name = spec_name(plan.spec.model)
    return ["--spec", HYBRID_MODULE if hybrid(plan) else MODULE, name] if name else []
