"""What transformers' own models lack, so that training them with DeepSpeed would lose it."""

from __future__ import annotations

from meshwright.emit.deepspeed import attention
from meshwright.emit.huggingface import mismatches
from meshwright.model.architecture_table import architecture_of
from meshwright.model.architectures import Architecture
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import TRANSFORMERS, Layout, Rule

__all__ = ["RULES"]


def _architecture(r: Layout) -> Architecture:
    return architecture_of(r.model)


def _supports(r: Layout) -> bool:
    architecture, kernel = _architecture(r), attention(r.model, r.backend.deepspeed)
    return kernel == "eager" or (architecture.sdpa if kernel == "sdpa" else architecture.flash)


RULES: tuple[Rule, ...] = (
    Rule(
        id="deepspeed.architecture",
        path="model.transformers",
        backends=TRANSFORMERS,
        holds=lambda r: not mismatches(r.model),
        message=lambda r: "; ".join(f"{problem.path}: {problem.message}" for problem in mismatches(r.model)),
        source="the backend trains transformers' own models",
    ),
    Rule(
        id="deepspeed.mtp",
        path="model.mtp",
        backends=TRANSFORMERS,
        holds=lambda r: r.model.mtp == 0,
        message="transformers builds no multi-token-prediction layers, {model.mtp} are asked for",
        source="transformers models/deepseek_v3/modeling_deepseek_v3.py: _keys_to_ignore_on_load_unexpected",
        repairs=change(model__mtp=0),
    ),
    Rule(
        id="deepspeed.balancing",
        path="model.moe.balancing",
        backends=TRANSFORMERS,
        needs=("deepspeed.architecture",),
        holds=lambda r: (
            r.model.moe is None
            or r.model.moe.balancing == "none"
            or (r.model.moe.balancing == "aux_loss" and "moe.aux_loss" in _architecture(r).carried)
            or (r.model.moe.aux_loss == 0 and r.model.moe.balancing != "quantile_balancing")
        ),
        message="transformers' {model.transformers} has no {model.moe.balancing} loss to balance experts with",
        source="transformers models/*/modeling_*.py: load_balancing_loss_func",
        repairs=any_of(change(model__moe__balancing="aux_loss"), change(model__moe__balancing="none")),
    ),
    Rule(
        id="deepspeed.router_bias",
        path="model.moe.bias_update_rate",
        backends=TRANSFORMERS,
        holds=lambda r: r.model.moe is None or not r.model.moe.router_bias or r.model.moe.bias_update_rate == 0,
        message="transformers never updates the router's bias, so a rate of {model.moe.bias_update_rate} is lost",
        source="transformers models/deepseek_v3/modeling_deepseek_v3.py:131: a buffer of zeros",
        repairs=change(model__moe__bias_update_rate=0.0),
    ),
    Rule(
        id="deepspeed.z_loss",
        path="model.moe.z_loss",
        backends=TRANSFORMERS,
        holds=lambda r: r.model.moe is None or r.model.moe.z_loss == 0,
        message="transformers has no z-loss on its routers, {model.moe.z_loss} is asked for",
        source="transformers models/*/modeling_*.py",
        repairs=change(model__moe__z_loss=0.0),
    ),
    Rule(
        id="deepspeed.capacity",
        path="model.moe.capacity_factor",
        backends=TRANSFORMERS,
        holds=lambda r: r.model.moe is None or r.model.moe.capacity_factor is None,
        message="transformers drops no tokens; a capacity factor of {model.moe.capacity_factor} is lost",
        source="transformers models/*/modeling_*.py",
        repairs=change(model__moe__capacity_factor=None),
    ),
    Rule(
        id="deepspeed.attention",
        path="backend.deepspeed.attention",
        backends=TRANSFORMERS,
        needs=("deepspeed.architecture",),
        holds=lambda r: (
            _supports(r)
            and not (attention(r.model, r.backend.deepspeed).startswith("flash") and r.training.precision == "fp32")
        ),
        message=lambda r: (
            f"{attention(r.model, r.backend.deepspeed)} does not exist for {r.model.transformers} of transformers "
            f"in {r.training.precision}"
        ),
        source="transformers modeling_utils.py:1666; flash attention computes in 16 bit",
        repairs=any_of(change(backend__deepspeed__attention="auto"), change(backend__deepspeed__attention="eager")),
    ),
)
