"""Mixers of ours on Megatron-core: what our layers have in the place of attention, and beside what they stand."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.model.kinds import mixers
from meshwright.model.megatron_parts import OUR_MIXERS
from meshwright.rules._repairs import change, nearest, on_deepspeed
from meshwright.rules._rule import megatron_rule
from meshwright.spec import Model

__all__ = ["RULES"]

_IN_ATTENTION = ("qkv_linear", "core_attn", "attn_proj")
_BESIDE_LIGHTNING = {"attention", "windowed_attention", "lightning", "none"}
_TP = nearest("parallelism.tp", lambda r: r.tp, high=64)


def _having(*names: str) -> Callable[[Model], bool]:
    return lambda model: not mixers(model).isdisjoint(names)


_OURS, _ANY = _having(*OUR_MIXERS), _having(*OUR_MIXERS, "lightning")
_CONVOLVES, _SCANS = _having("short_convolution"), _having("lightning")

RULES = (
    megatron_rule(
        "mixers_beside",
        "model.pattern",
        lambda r: mixers(r.model) <= {"attention", *OUR_MIXERS},
        "our short convolutions and parallel mixers stand beside layers of full attention alone",
        "train/mixers.py",
        on_deepspeed,
        where=_OURS,
    ),
    megatron_rule(
        "mixers_mtp",
        "model.mtp",
        lambda r: r.model.mtp == 0,
        "our layers say by their number which mixer they have, and layers of multi-token prediction count anew",
        "train/mixers.py; core/transformer/transformer_layer.py:337",
        change(model__mtp=0),
        where=_OURS,
    ),
    megatron_rule(
        "mixers_gtp",
        "parallelism.gtp",
        lambda r: r.gtp == 1,
        "gtp = {gtp} keeps weights in parts, of which our mixers make no checkpoint",
        "train/short_convolution.py; as core/ssm/mamba_mixer.py:1385 does",
        change(parallelism__gtp=1),
        where=_OURS,
    ),
    megatron_rule(
        "mixers_offload",
        "backend.megatron.activation_offload.modules",
        lambda r: set(r.backend.megatron.activation_offload.modules).isdisjoint(_IN_ATTENTION),
        "our mixers copy nothing to the host, and {backend.megatron.activation_offload.modules} are parts of attention",
        "train/short_convolution.py; core/transformer/attention.py:397",
        change(backend__megatron__activation_offload__modules=()),
        where=_ANY,
    ),
    megatron_rule(
        "mixers_experts",
        "model.multipliers",
        lambda r: r.model.multipliers is None or r.model.moe is None,
        "our layers have factors on an MLP, not on experts",
        "train/blocks.py",
        change(model__multipliers=None),
        where=_OURS,
    ),
    megatron_rule(
        "mixers_fused_mlp",
        "backend.megatron.op_fuser",
        lambda r: r.model.multipliers is None or not r.backend.megatron.op_fuser,
        "the fused MLP of op_fuser=true has no factor on its gate",
        "train/parallel_mixer.py: gate_factor; core/extensions/transformer_engine.py: TEFusedMLP",
        change(backend__megatron__op_fuser=False),
        where=_OURS,
    ),
    megatron_rule(
        "mixers_cp",
        "parallelism.cp",
        lambda r: r.cp == 1,
        "our short convolutions see whole sequences, cp = {cp} cuts them",
        "train/short_convolution.py",
        change(parallelism__cp=1),
        where=_CONVOLVES,
    ),
    megatron_rule(
        "mixers_tp",
        "parallelism.tp",
        lambda r: r.model.hidden % r.tp == 0,
        "{model.hidden} channels of the short convolutions do not divide by tp = {tp}",
        "train/short_convolution.py",
        _TP,
        where=_CONVOLVES,
    ),
    megatron_rule(
        "lightning_beside",
        "model.pattern",
        lambda r: (
            mixers(r.model) <= _BESIDE_LIGHTNING
            and not (r.model.linear_bias or r.model.qkv_clip or r.model.parallel_residual or r.model.mtp)
        ),
        "our lightning attention stands beside attention alone, without biases, clipping, parallel residuals or "
        "multi-token prediction",
        "train/lightning.py, train/blocks.py",
        where=_SCANS,
    ),
    megatron_rule(
        "lightning_activation",
        "model.activation",
        lambda r: r.model.activation == "swiglu",
        "lightning attention has SiLU, as the MLP's swiglu, not {model.activation}",
        "transformers models/minimax/modeling_minimax.py: act_fn",
        where=_SCANS,
    ),
    megatron_rule(
        "lightning_cp",
        "parallelism.cp",
        lambda r: r.cp == 1,
        "our lightning attention sees whole sequences, cp = {cp} cuts them",
        "train/lightning.py",
        change(parallelism__cp=1),
        where=_SCANS,
    ),
    megatron_rule(
        "carried_norm",
        "parallelism.recompute_modules",
        lambda r: (
            r.model.norm_placement != "carried" or "layernorm" not in (r.spec.parallelism.recompute_modules or ())
        ),
        "the residual goes on from what a norm gave, and a recomputed norm keeps no output for it",
        "train/blocks.py",
        change(parallelism__recompute_modules=None),
    ),
)
