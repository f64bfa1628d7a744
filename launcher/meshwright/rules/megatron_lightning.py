"""Lightning attention, and residuals that go on from what is normed, on Megatron-core: layers of ours."""

from __future__ import annotations

from meshwright.model.kinds import mixers
from meshwright.rules._repairs import change
from meshwright.rules._rule import megatron_rule
from meshwright.spec import Model

__all__ = ["RULES"]

_BESIDE = {"attention", "windowed_attention", "lightning", "none"}


def _lightning(model: Model) -> bool:
    return "lightning" in mixers(model)


RULES = (
    megatron_rule(
        "lightning_beside",
        "model.pattern",
        lambda r: (
            mixers(r.model) <= _BESIDE
            and not (r.model.linear_bias or r.model.qkv_clip or r.model.parallel_residual or r.model.mtp)
        ),
        "our lightning attention stands beside attention alone, without biases, clipping, parallel residuals or "
        "multi-token prediction",
        "train/lightning.py, train/blocks.py",
        where=_lightning,
    ),
    megatron_rule(
        "lightning_activation",
        "model.activation",
        lambda r: r.model.activation == "swiglu",
        "lightning attention has SiLU, as the MLP's swiglu, not {model.activation}",
        "transformers models/minimax/modeling_minimax.py: act_fn",
        where=_lightning,
    ),
    megatron_rule(
        "lightning_cp",
        "parallelism.cp",
        lambda r: r.cp == 1,
        "our lightning attention sees whole sequences, cp = {cp} cuts them",
        "train/lightning.py",
        change(parallelism__cp=1),
        where=_lightning,
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
