"""A model of the same kind, small enough for a CPU: every part stays, every size shrinks."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, islice

from meshwright.errors import ConfigError, Problem
from meshwright.model.kinds import layer_kinds
from meshwright.model.layers.measured import small_measured
from meshwright.model.pattern import read_ahead, write_pattern
from meshwright.spec.measured import Measured
from meshwright.spec.model import DeltaNet, Mla, Model, Moe

__all__ = ["HEADS", "HEAD_DIM", "SEQUENCE", "VOCAB", "small_model"]

# All sizes are ours: the smallest that every kind of parallelism still divides by 2 (heads by 4).
HIDDEN, HEADS, HEAD_DIM, FFN = 64, 4, 16, 128
EXPERTS, EXPERT_FFN, WINDOW = 4, 64, 16
LOGIT_SCALE = 0.5  # at least: wide models divide more, and a narrow one's loss would hardly fall in a few steps
SEQUENCE = 64
VOCAB = 256  # bytes
KV_HEADS = {"mha": HEADS, "gqa": HEADS // 2, "mqa": 1, "mla": HEADS}


def small_model(model: Model, layers: int) -> Model:
    """``model`` with ``layers`` layers: attention kind, experts, norms, biases, positions and ties are kept.

    Dropout is not: its random numbers depend on the layout. An indexer chooses a quarter of the tokens.
    """
    if model.measured is not None:
        return _small_measured(model, model.measured)
    return replace(
        model,
        layers=layers,
        pattern=_small_pattern(model, layers),
        hidden=HIDDEN,
        ffn=_ffn(model),
        heads=HEADS,
        kv_heads=KV_HEADS[model.attention],
        head_dim=HEAD_DIM,
        vocab=VOCAB,
        max_positions=SEQUENCE,
        attention_scale=None if model.attention_scale is None else HEAD_DIM**-0.5,
        embedding_scale=None if model.embedding_scale is None else HIDDEN**0.5,
        logit_scale=_logit_scale(model),
        sliding_window=None if model.sliding_window is None else WINDOW,
        full_attention_every=min(model.full_attention_every, 2),
        attention_dropout=0.0,
        hidden_dropout=0.0,
        rope=replace(model.rope, skip_every=min(model.rope.skip_every, 2)),
        mla=None if model.mla is None else _small_mla(model.mla),
        moe=None if model.moe is None else _small_moe(model.moe),
        indexer=model.indexer and replace(model.indexer, heads=HEADS, head_dim=HEAD_DIM, topk=SEQUENCE // 4),
        delta_net=model.delta_net and _small_delta_net(model.delta_net),
        mamba=model.mamba
        and replace(
            model.mamba, heads=2 * HEADS, head_dim=HEAD_DIM, groups=min(model.mamba.groups, HEADS), state=HEAD_DIM
        ),
        mtp=min(model.mtp, 1),
    )


def _small_pattern(model: Model, layers: int) -> str | None:
    """Each kind of decoder layer in turn, and multi-token prediction as it was written."""
    if model.pattern is None:
        return None
    return write_pattern(islice(cycle(dict.fromkeys(layer_kinds(model))), layers), read_ahead(model.pattern))


def _logit_scale(model: Model) -> float | None:
    """Beside factors inside the layers it goes with the width, as they were tuned (arXiv:2203.03466, table 8)."""
    if model.logit_scale is None:
        return None
    wide = model.logit_scale * model.hidden / HIDDEN
    return wide if model.multipliers is not None else max(model.logit_scale, LOGIT_SCALE)


def _small_delta_net(net: DeltaNet) -> DeltaNet:
    values = HEADS * (1 if net.key_heads == net.value_heads else 2)
    return replace(net, key_heads=HEADS, value_heads=values, key_dim=HEAD_DIM, value_dim=HEAD_DIM)


def _small_measured(model: Model, measured: Measured) -> Model:
    """The small configuration of the same class that was found to train."""
    small = small_measured(model)
    if small is None:
        message = f"no small configuration of {measured.cls} was found that trains on a CPU; there is no miniature"
        raise ConfigError([Problem("model.path", message, "rehearse.measured")])
    return small


def _ffn(model: Model) -> int:
    """Twice the width, but where the architecture ties it to another size."""
    if model.ffn == 4 * model.hidden:
        return 4 * HIDDEN
    return EXPERT_FFN if model.moe is not None and model.ffn == model.moe.ffn else FFN


def _small_mla(mla: Mla) -> Mla:
    compressed = None if mla.q_lora_rank is None else HIDDEN // 2
    return Mla(
        kv_lora_rank=HIDDEN // 2,
        q_lora_rank=compressed,
        qk_nope_dim=HEAD_DIM,
        qk_rope_dim=HEAD_DIM // 2,
        v_dim=HEAD_DIM,
    )


def _small_moe(moe: Moe) -> Moe:
    return replace(
        moe,
        experts=EXPERTS,
        topk=min(moe.topk, 2),
        ffn=EXPERT_FFN,
        latent=moe.latent and HIDDEN // 2,
        shared_ffn=min(moe.shared_ffn, EXPERT_FFN),
        first_dense=min(moe.first_dense, 1),
        every=min(moe.every, 2),
        groups=min(moe.groups, 2),
        group_topk=min(moe.group_topk, 1),
    )
